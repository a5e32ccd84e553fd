"""Names of plays, tasks and handlers. Operators read them in the progress display and in ARA, without the file: see docs/glossary.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = [*sorted((ROOT / "playbooks").glob("*.yml")), *sorted((ROOT / "molecule").glob("*.yml")),
             *sorted((ROOT / "molecule").glob("*/converge.yml"))]  # fmt: skip

# The first word of every name. To extend the list, add a verb that the manual of the configured program uses, and only if no verb of the
# list says the same: "Remove" stands for delete, drop and purge, "Create" for make, "Fetch" for download, "Stop" for kill and end.
VERBS = set(re.findall(r"\w+", """
    Add Apply Arm Assemble Back Build Check Clear Compact Compare Configure Copy Create Decrypt Detect Determine Disable Disarm Distribute
    Drain Enable Encrypt Extract Fail Fetch Find Finish Generate Install Join Link List Load Locate Mount Move Prepare Probe Provide Prune
    Publish Push Read Reboot Record Refuse Reissue Reload Remove Renew Repair Replace Report Restart Restore Revoke Roll Rotate Run Set Sign
    Skip Start Stop Switch Unmount Update Wait Write
"""))  # fmt: skip

# Words that stand for a noun which a reader of the log does not see. "Check that X is set" is a conjunction, and a number is a digit.
PRONOUN = re.compile(
    r"(?<!^Check )\bthat\b|\b(it|its|itself|they|them|their|theirs|themselves|this|these|those|one|ones|who|whom|whose|what|whatever|which"
    r"|nobody|noone|somebody|someone|anybody|anyone|everybody|everyone|nothing|something|anything|everything|others|here|there|so)\b",
    re.IGNORECASE,
)

# A word that only this project uses, and the word for it in docs/glossary.md.
PRIVATE = {
    r"anew|once more": "again, new, rebuilt, reissue",
    r"authority|authorities": "CA",
    r"believ\w*": "trust",
    r"com(e|es|ing) in|let in": "log in, accept connections",
    r"door|way in|way back|take \w+ back|takes? back": "login, port, roll back, revoke",
    r"float\w*": "VIP",
    r"foreign|strangers?": "rogue DHCP server, unknown host",
    r"forgets?|forgotten|remembers?|remembered": "remove, clear, record",
    r"good": "valid, trusted",
    r"herd": "compute nodes",
    r"knock\w*": "probe",
    r"tells?|told": "distribute, publish, report",
    r"vouch\w*": "sign, certify",
}

# Each of these names was in use, and stands for a rule that refuses it.
REFUSED = {
    "Say so": "pronoun",
    "Load them": "pronoun",
    "Key | Make it": "pronoun",
    "Write whom they admit": "pronoun",
    "Run nginx with the certificate that there is": "pronoun",
    "Check that there is one": "pronoun",
    "Find out who holds the interface": "pronoun",
    "Retire": "single word",
    "Choose": "single word",
    "Knock at the address of the rack": "private word",
    "Remove the herd's compilers from login shells": "private word",
    "Keep the zones from strangers": "private word",
    "Start nginx anew": "private word",
    "Bring the way back": "private word",
    "Float an address": "private word",
    "Vouch for everyone": "private word",
    "Open the door": "private word",
    "Believe certified hosts only": "private word",
    "Ask the authority": "private word",
    "Insist on secrets": "verb",
    "Let the kernel forward": "verb",
    "Orchestrate containers": "verb",
}
INNER = ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always")


def entries(node: object) -> Iterator[dict]:
    """Yield the plays, blocks, tasks and handlers below a node of a YAML file."""
    for item in node if isinstance(node, list) else []:
        yield item
        for key in INNER:
            yield from entries(item.get(key))


def read(path: Path) -> list[dict]:
    return list(entries(yaml.safe_load(path.read_text(encoding="utf-8"))))


def names(path: Path) -> list[str]:
    return [entry["name"] for entry in read(path) if "name" in entry]


def task_files(role: Path) -> list[Path]:
    return [*sorted((role / "tasks").rglob("*.yml")), *sorted((role / "handlers").rglob("*.yml"))]


def prefix(path: Path, role: Path) -> str:
    """Return the prefix that ansible-lint's name[prefix] asks for, "" where it asks for none."""
    if not path.is_relative_to(role / "tasks") or path == role / "tasks" / "main.yml":
        return ""
    return "".join(f"{part} | " for part in path.relative_to(role / "tasks").with_suffix("").parts)


def wrong_prefix(path: Path, role: Path) -> list[str]:
    expected = re.escape(prefix(path, role))
    return [name for name in names(path) if not re.match(rf"{expected}[A-Z][^|]*$", name)]


def complaints(name: str) -> list[str]:
    """Return the kinds of mistakes in a name."""
    sentence = name.rpartition(" | ")[2]
    private = re.compile(rf"\b({'|'.join(PRIVATE)})\b", re.IGNORECASE)
    found = {
        "pronoun": PRONOUN.search(sentence),
        "single word": " " not in sentence,
        "private word": private.search(sentence),
        "verb": sentence.split()[0] not in VERBS,
    }
    return [kind for kind, mistake in found.items() if mistake]


def twice(found: list[str]) -> list[str]:
    return [name for name, count in Counter(found).items() if count > 1]


ALL = [*(file for role in ROLES for file in task_files(role)), *PLAYBOOKS]


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_is_a_sentence_in_the_words_of_the_field(path):
    found = {name: complaints(name) for name in names(path)}
    assert found, "nothing was read"
    assert {name: kinds for name, kinds in found.items() if kinds} == {}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_needs_the_file_is_refused(name):
    assert REFUSED[name] in complaints(name)


def test_every_private_word_is_refused():
    """Every alternative of the list is seen by one of the refused names or by this list of old names."""
    old = [*REFUSED, "Make the authority for TLS once more", "Come in once more", "Take back the rules", "Forget the facts",
           "Note which of the keys are good", "Tell the controller"]  # fmt: skip
    assert [word for word in PRIVATE if not any(re.search(rf"\b({word})\b", name, re.IGNORECASE) for name in old)] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_no_name_occurs_twice_in_a_role(role):
    assert twice([name for path in task_files(role) for name in names(path)]) == []


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_occurs_twice_in_a_playbook(path):
    assert twice(names(path)) == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_names_in_a_subtask_file_begin_with_its_name(role):
    assert {str(path): wrong for path in task_files(role) if (wrong := wrong_prefix(path, role))} == {}


def test_handlers_are_not_shared_by_name():
    """Of two handlers with a name Ansible runs the one that was loaded last, whichever role notifies."""
    assert twice([name for role in ROLES for path in sorted((role / "handlers").rglob("*.yml")) for name in names(path)]) == []


def as_list(value: object) -> list:
    return value if isinstance(value, list) else [value] if value else []


def test_every_notification_reaches_a_handler():
    """A handler that was renamed alone is missed only by the run in which something changes."""
    handlers = [entry for role in ROLES for path in sorted((role / "handlers").rglob("*.yml")) for entry in read(path)]
    known = {topic for entry in handlers for topic in (entry.get("name"), *as_list(entry.get("listen")))}
    notified = {topic for path in ALL for entry in read(path) for topic in as_list(entry.get("notify"))}
    assert notified
    assert notified <= known


def test_the_rules_of_files_refuse_what_they_are_for(tmp_path):
    """A role with a repeated name and with each mistake of a prefix."""
    role = tmp_path / "role"
    (role / "tasks" / "part").mkdir(parents=True)
    (role / "handlers").mkdir()
    write = {
        "tasks/main.yml": "- name: Install nginx\n- name: main | Start nginx\n",
        "tasks/krl.yml": "- name: Krl | Generate the KRL\n- name: krl | generate the KRL\n- name: krl | Generate the KRL\n",
        "tasks/part/one.yml": "- name: one | Read X\n- name: part | one | Read X\n",
        "handlers/main.yml": "- name: Restart nginx\n- name: Check nginx\n  block:\n    - name: Install nginx\n",
    }
    for path, text in write.items():
        (role / path).write_text(text)
    wrong = {str(path.relative_to(role)): found for path in task_files(role) if (found := wrong_prefix(path, role))}
    assert wrong == {
        "tasks/main.yml": ["main | Start nginx"],
        "tasks/krl.yml": ["Krl | Generate the KRL", "krl | generate the KRL"],
        "tasks/part/one.yml": ["one | Read X"],
    }
    assert twice([name for path in task_files(role) for name in names(path)]) == ["Install nginx"]
