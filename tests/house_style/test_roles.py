"""What every role has in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from beowulf import readmes

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())


def read(path: Path) -> dict:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_is_described_and_is_either_required_or_has_a_default(role):
    specs = read(role / "meta" / "argument_specs.yml")["argument_specs"]
    defaults = read(role / "defaults" / "main.yml")
    named = set()
    for entry_point, spec in specs.items():
        for name, option in spec["options"].items():
            named.add(name)
            assert option.get("description"), f"{name} is not described"
            assert (name in defaults) is not option.get("required", False), f"{name} of {entry_point}: required, or a default"
            # A default that is worked out on the node stands in defaults/ alone.
            assert option.get("default", defaults.get(name)) == defaults.get(name), f"{name} has two defaults"
    assert set(defaults) <= named


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_readme_is_what_the_specification_says(role):
    described = read(role / "meta" / "main.yml")["galaxy_info"]["description"]
    specs = read(role / "meta" / "argument_specs.yml")["argument_specs"]
    assert described in {spec["short_description"] for spec in specs.values()}
    assert (role / "README.md").read_text(encoding="utf-8") == readmes.readme(role), "./bootstrap dev.readmes writes it"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_knows_neither_the_rack_nor_a_group(role):
    for path in [*role.rglob("*.yml"), *role.rglob("*.j2")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\brack_", text), f"{path} reads what the rack plugin derived"
        assert not re.search(r"\bgroups[\[.]", text), f"{path} reads a group"


def test_nothing_switches_host_keys_off_or_ignores_errors():
    for folder in ("roles", "playbooks", "inventory"):
        for path in (ROOT / folder).rglob("*.y*ml"):
            text = path.read_text(encoding="utf-8")
            assert "ignore_errors" not in text, path
            assert "StrictHostKeyChecking=no" not in text, path


def test_a_task_that_never_fails_says_why():
    """Any failure is then taken for the one that was thought of; the reason beside it is what a reader can judge."""
    files = [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]
    lines = [(file, line.strip()) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(str(file), line) for file, line in lines if re.match(r"(failed_when: false|ignore_errors:)", line) and " # " not in line] == []


SILENT = {"backup/borg", "backup/extract", "k3s/evict", "k3s/forget", "k3s/leave", "k3s/restore", "k3s/restored", "k3s/snapshot",
          "lab/absent", "lab/image", "lab_node/main"}  # fmt: skip
"""Files of tasks that are no part of a deploy, so that no check has to tell of them."""
UNKNOWABLE = {
    "mpi/install": "included by no check; the task that finds out that it is needed is changed instead",
    "network/move": "which sessions end, is known when the node has moved",
}
"""Files with a command of which a check cannot tell, and why."""


def test_a_command_that_changes_something_is_told_by_a_check():
    """Ansible skips it in a check without a word, unless it has a condition (creates, removes), or runs there, too (check_mode: false)."""
    found = set()
    for path in [*(ROOT / "roles").glob("*/tasks/*.yml"), *(ROOT / "roles").glob("*/handlers/*.yml")]:
        for task in tasks_in(yaml.safe_load(path.read_text(encoding="utf-8")), {}):
            command = task.get("ansible.builtin.command", task.get("ansible.builtin.shell"))
            conditions = {*(command if isinstance(command, dict) else ()), *task.get("args", ())}
            told = task.get("changed_when") is False or task.get("check_mode") is False or conditions & {"creates", "removes"}
            if command is not None and not told:
                found.add(f"{path.relative_to(ROOT / 'roles').parts[0]}/{path.stem}")
    assert found == SILENT | set(UNKNOWABLE)


def tasks_in(node: object, context: dict) -> list[dict]:
    """Return the tasks of a file, those in blocks as well, each with what a play or block around it says of become and of variables."""
    if isinstance(node, list):
        return [task for one in node for task in tasks_in(one, context)]
    if not isinstance(node, dict):
        return []
    around = {key: node[key] for key in ("become", "become_user") if key in node}
    context = {**context, **around, "vars": {**context.get("vars", {}), **(node.get("vars") or {})}}
    inner = [
        task
        for key in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")
        for task in tasks_in(node.get(key), context)
    ]
    return inner or [{**node, **context}]


def spelled_out(text: str, values: dict, depth: int = 8) -> str:
    """Return a text with the variables of it in the place of their names, as far as they are known."""
    found = re.sub(r"[A-Za-z_]\w*", lambda name: str(values.get(name[0], name[0])), text)
    return found if found == text or not depth else spelled_out(found, values, depth - 1)


HARMLESS = {"assert", "debug", "fail", "find", "include_role", "import_role", "include_tasks", "import_tasks", "import_playbook",
            "set_fact", "set_stats", "stat", "user"}  # fmt: skip
# The controller's user on the deployer may do anything there by sudo, and so may who is in for it: it is root by another name.
PRIVILEGED = r"schedule_home|/home/(\{\{ *)?rack_ssh_user"


def test_no_task_acts_as_root_below_the_home_of_an_account_that_has_no_rights():
    """What lies there is the account's: a link leads root wherever the account likes, and a file says what it likes."""
    values = {}
    for path in [*(ROOT / "roles").glob("*/defaults/main.yml"), *(ROOT / "roles").glob("*/vars/main.yml"),
                 *(ROOT / "inventory/group_vars").rglob("*.yml")]:  # fmt: skip
        values |= {name: value for name, value in read(path).items() if isinstance(value, (str, list, dict))}
    files = [*(ROOT / "roles").glob("*/tasks/*.yml"), *(ROOT / "roles").glob("*/handlers/*.yml"), *(ROOT / "playbooks").glob("*.yml")]
    found, looked_at = [], 0
    for path in files:
        for task in tasks_in(yaml.safe_load(path.read_text(encoding="utf-8")), {}):
            module = next((key for key in task if key.count(".") >= 2), "")
            # Who is nobody but the account, or this machine's user, does no harm there.
            if module.rpartition(".")[2] in HARMLESS or task.get("become") is False or "become_user" in task:
                continue
            looked_at += 1
            said = spelled_out(yaml.safe_dump([task.get(module), task.get("loop")], width=10_000), values | task["vars"])
            said = re.sub(PRIVILEGED, "", said)
            if re.search(r"/home/|\.home\b|\bhome: /home|~/", said):
                found.append(f"{path.relative_to(ROOT)}: {task.get('name')}")
    assert looked_at > 200
    assert not found


def test_what_is_prefetched_is_installed_by_a_role():
    """The list is written down twice because a role's own is not known before it runs."""
    parts = [path for role in ROLES for folder in ("defaults", "tasks", "vars") for path in (role / folder).rglob("*.yml")]
    named = set(re.findall(r"[\w.+-]+", "\n".join(path.read_text(encoding="utf-8") for path in parts)))
    variables = [read(path) for path in (ROOT / "inventory" / "group_vars").rglob("*.yml")]
    lists = [set(found["prefetch_packages"]) for found in variables if "prefetch_packages" in found]
    prefetched = set().union(*lists)
    assert prefetched
    assert prefetched <= named, "no role installs these"
    assert set(read(ROOT / "roles/distcc/vars/main.yml")["__distcc_packages"]) <= prefetched
    assert set(read(ROOT / "roles/mpi/defaults/main.yml")["mpi_python_packages"]) <= prefetched
