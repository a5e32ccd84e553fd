# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person is told about a rack file: one clear message for each mistake, all of them at once."""

from __future__ import annotations

import time
import tracemalloc
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack import RackError, load_rack

RACKS = Path(__file__).resolve().parents[8] / "tests" / "racks"
BASE = (RACKS / "good" / "lab.rack.yml").read_text()
MISTAKES = yaml.safe_load((RACKS / "mistakes.yml").read_text())


def said(path: Path, content: str | bytes | None = None) -> list[str]:
    """All messages about a file, each without its name and on one line."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RackError) as caught:
        load_rack(path)
    return [str(problem).removeprefix(f"{path}:").strip().replace("\n    hint: ", " | ") for problem in caught.value.problems]


def names(case: dict) -> str:
    return f"{case['kind']}-{next(iter(case['change'].values()))[:40]!r}"


@pytest.fixture
def rack_file(tmp_path: Path) -> Path:
    return tmp_path / "lab.rack.yml"


@pytest.mark.parametrize("case", MISTAKES, ids=names)
def test_a_mistake_gives_its_message_and_no_other(case: dict, rack_file: Path) -> None:
    content = BASE
    for old, new in case["change"].items():
        assert old in content
        content = content.replace(old, new, 1)
    assert said(rack_file, content) == case["says"]


def test_ten_mistakes_give_ten_messages(racks: Path) -> None:
    lines = [int(message.split(":")[0]) for message in said(racks / "bad" / "ten.rack.yml")]
    assert lines == [3, 4, 8, 13, 15, 16, 17, 18, 19, 19]


def test_a_problem_tells_its_parts(racks: Path) -> None:
    with pytest.raises(RackError) as caught:
        load_rack(racks / "bad" / "ten.rack.yml")
    problem = next(each for each in caught.value.problems if each.key == "type")
    assert (problem.file, problem.line, problem.column, problem.node) == (str(racks / "bad" / "ten.rack.yml"), 16, 17, "gamma")
    assert (problem.value, problem.hint) == ("'compue'", "did you mean `compute`?")
    assert problem.rule == "must be one of router, deployer, lanservices, compute"


TAB = "YAML forbids tabs in the indentation: use spaces"
LOOK = "look at this line and the one above it: quotes, brackets, indentation, `key: value`"
FILES = {
    "empty": ("", ["1:1: is empty | start from inventory/example.rack.yml"]),
    "comment only": ("# nothing\n", ["1:1: is empty | start from inventory/example.rack.yml"]),
    "null": ("~\n", ["1:1: must be a mapping of keys to values | start with `plugin: beowulf.cluster.rack`"]),
    "list": ("- a\n", ["1:1: must be a mapping of keys to values | start with `plugin: beowulf.cluster.rack`"]),
    "byte order mark": ("\ufeff" + BASE, ["1:1: begins with a byte order mark (BOM) | save it as UTF-8 without BOM"]),
    "utf-16": (BASE.encode("utf-16"), ["1:1: begins with a byte order mark (BOM) | save it as UTF-8 without BOM"]),
    "latin-1": (b"cluster: caf\xe9\n", ["1:13: is not UTF-8 | save it as UTF-8"]),
    "tab": (
        BASE.replace("  subnet", "\tsubnet"),
        [f"6:1: is not valid YAML: while scanning for the next token; found character that cannot start any token | {TAB}"],
    ),
    "bell": (
        BASE.replace("lab.internal", "lab\a.internal"),
        ["4:12: holds a character that YAML forbids (control characters are not allowed) | delete it"],
    ),
    "indentation": (
        BASE.replace("  gateway", "   gateway"),
        [f"7:11: is not valid YAML: mapping values are not allowed in this context | {LOOK}"],
    ),
    "open brace": (
        BASE.replace("board: 2B}", "board: 2B"),
        [f"18:8: is not valid YAML: while parsing a flow mapping; did not find expected ',' or '}}' | {LOOK}"],
    ),
    "undefined alias": ("a: *b\n", [f"1:4: is not valid YAML: found undefined alias | {LOOK}"]),
    "two documents": (
        BASE + "---\na: 1\n",
        [
            "24:1: is not valid YAML: expected a single document in the stream; but found another document"
            " | a rack file holds one document: remove the second `---`"
        ],
    ),
    "duplicate key": (
        BASE.replace("domain:", "cluster: x\ndomain:"),
        ["4:1: cluster is a duplicate key: it stands already on line 3 | keep one of the two"],
    ),
    "duplicate key on a line": (
        BASE.replace("board: 2B", "board: 2B, board: 3B"),
        ["17:90: node psi: board is a duplicate key: it stands twice on this line | keep one of the two"],
    ),
    "alias cycle": ("a: &a [*a]\n", ["1:4: contains itself through an alias | remove the alias"]),
    "merge cycle": ("nodes: &a {<<: *a}\n", ["1:8: contains itself through an alias | remove the alias"]),
    "merge of no mapping": (
        BASE.replace("delta:   {", "delta:   {<<: [1], "),
        ["21:17: node delta: << `<<` must be followed by an alias of a mapping"],
    ),
    "vault tag": (
        BASE.replace("domain: ", "domain: !vault "),
        [
            "4:9: domain carries the YAML tag `!vault`, which a rack file does not use"
            " | secrets belong in the vault (inventory/group_vars/), not in a rack file"
        ],
    ),
    "python tag": (
        BASE.replace("lab.internal", '!!python/object/apply:os.system ["id"]'),
        ["4:9: domain carries the YAML tag `tag:yaml.org,2002:python/object/apply:os`, which a rack file does not use | remove the tag"],
    ),
    "key that is a mapping": (BASE.replace("domain:", "? {a: b}\n: c\ndomain:"), ["4:3: ? a key must be a word, not a mapping or a list"]),
    "key that is nothing": (BASE.replace("domain:", "~: c\ndomain:"), ['4:1: ~.name must be text, but there is nothing | quote it: "~":']),
    "nothing at all": (
        "{}\n",
        [f"1:1: {key} is missing | add `{key}:`" for key in ("plugin", "cluster", "domain", "network", "nodes")],
    ),
    "expressions": (
        BASE.replace("domain:", 'compose: {1x: a, x: 3, y: ""}\ngroups: {compute: a, psi: b}\nstrict: no\ndomain:'),
        [
            "4:11: compose.1x.name = '1x' is not a variable's name: letters, digits and `_`, not starting with a digit",
            '4:21: compose.x = 3 must be a Jinja2 expression, as text, but this is the number 3 | quote it: "3"',
            "4:27: compose.y = '' is an empty expression",
            "5:10: groups.compute is a group of the plugin's own | choose another name",
            "6:9: strict = no must be true or false, but YAML reads a bare no as a boolean | write false without quotes",
            "20:3: node psi: name = 'psi' is the name of a group: a node cannot be called so | like psi1",
        ],
    ),
}


@pytest.mark.parametrize(("content", "messages"), FILES.values(), ids=FILES.keys())
def test_a_broken_file_is_explained(content: str | bytes, messages: list[str], rack_file: Path) -> None:
    assert said(rack_file, content) == messages


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    assert said(tmp_path / "no.rack.yml") == ["there is no such file | is the path right?"]
    assert said(tmp_path) == ["is a directory, not a rack file | name the file in it: NAME.rack.yml"]


SECRETS = ["password", "ssh_password", "vault_pass", "api_token", "passphrase", "tsig_secret", "private_key", "psk", "apikey"]
HINT = "secrets belong in the vault: put it, encrypted, into inventory/group_vars/ and remove it here"


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_is_named_and_never_shown(key: str, rack_file: Path) -> None:
    messages = said(rack_file, BASE.replace("board: 2B", f"board: 2B, {key}: hunter2"))
    assert messages == [f"17:90: node psi: {key} looks like a secret in clear (hidden) | {HINT}"]


@pytest.mark.parametrize("word", ["-----BEGIN OPENSSH PRIVATE KEY----- hunter2", "$ANSIBLE_VAULT;1.1;AES256 hunter2"])
def test_key_material_is_refused_under_any_key(word: str, rack_file: Path) -> None:
    messages = said(rack_file, BASE.replace("domain:", f'timezone: "{word}"\ndomain:'))
    assert messages == [f"4:11: timezone holds a private key or a vault text | {HINT}"]


def test_a_login_in_the_registry_is_refused(rack_file: Path) -> None:
    messages = said(rack_file, BASE.replace("domain:", "registry: redis://:hunter2@10.77.0.10\ndomain:"))
    assert messages == ["4:11: registry holds a login (hidden) | set the password in the environment: BEOWULF_REGISTRY_PASSWORD"]


def test_a_secret_in_clear_is_refused_in_an_expression_and_a_lookup_is_not(rack_file: Path) -> None:
    messages = said(rack_file, BASE.replace("domain:", "compose: {ansible_password: \"'hunter2'\"}\ndomain:"))
    assert messages == [f"4:11: compose.ansible_password looks like a secret in clear (hidden) | {HINT}"]
    rack_file.write_text(BASE.replace("domain:", "compose: {ansible_password: \"lookup('env', 'X')\"}\ndomain:"))
    assert load_rack(rack_file).compose == {"ansible_password": "lookup('env', 'X')"}


def test_an_unknown_value_is_not_shown_for_an_unknown_key(rack_file: Path) -> None:
    assert "hunter2" not in str(said(rack_file, BASE.replace("board: 2B", "board: 2B, note: hunter2")))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
DEEP = "is not valid YAML: nested deeper than 12 levels | a rack file is a few levels deep"
HOSTILE = {
    "alias bomb": (BOMB, "5:5: expands to more than 500,000 values | aliases that repeat aliases grow without bound; write the values out"),
    "deep lists": ("[" * 1_000_000, f"1:12: {DEEP}"),
    "deep mappings": ("a: " + "{a: " * 500_000, f"1:44: {DEEP}"),
    "5 MB": ("# " + "x" * 20_000_000, "is larger than 5 MB, which no rack needs"),
    "huge number": (BASE.replace("domain:", f"timezone: {'9' * 1_000_000}\ndomain:"), None),
    "huge name": (BASE.replace("zeta:", f"{'z' * 900}:"), None),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_size_costs_little(content: str, message: str | None, rack_file: Path) -> None:
    rack_file.write_text(content)
    tracemalloc.start()
    began = time.process_time()
    messages = said(rack_file)
    took, (_now, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(messages) == 1
    assert message is None or messages == [message]
    assert len(messages[0]) < 400
    assert took < 2
    assert peak < 100_000_000


def large(count: int) -> str:
    """A good rack of ``count`` nodes."""
    four = BASE[BASE.index("nodes:\n") :].splitlines()[:5]
    macs = ((i, f"b8:27:ec:{i >> 16:02x}:{i >> 8 & 255:02x}:{i & 255:02x}") for i in range(count - 4))
    rows = [f'  n{i}: {{type: compute, address: 10.77.{i // 200 + 1}.{i % 200 + 1}, mac: "{mac}"}}' for i, mac in macs]
    head = BASE[: BASE.index("nodes:\n")].replace("10.77.0.0/24", "10.77.0.0/16")
    head = head.replace("10.77.0.200-10.77.0.239", f"10.77.128.0-{ip_address('10.77.128.0') + count}")
    return "\n".join([head.rstrip(), *four, *rows]) + "\n"


def test_ten_thousand_nodes_are_read_in_two_seconds_and_not_one_more(rack_file: Path) -> None:
    rack_file.write_text(large(10_000))
    began = time.process_time()
    assert len(load_rack(rack_file).nodes) == 10_000
    assert time.process_time() - began < 2 * slowness()
    assert said(rack_file, large(10_001)) == ["15:1: nodes holds 10,001 nodes, at most 10,000 are allowed"]


def test_ten_thousand_mistakes_are_all_told(rack_file: Path) -> None:
    assert len(said(rack_file, large(10_000).replace("type: compute", "type: compue"))) == 9_996


def slowness() -> float:
    """How much slower than a quick machine this one is right now, by a fixed piece of work; at least 1."""
    began = time.process_time()
    sum(i * i for i in range(3_000_000))
    return max(1.0, (time.process_time() - began) / 0.2)
