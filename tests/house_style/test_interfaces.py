"""What playbooks and roles may know of each other: entry points with a specification, and names without underscores."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.beowulf.cluster.plugins.module_utils import kea_control
from beowulf import backup, compute, reencrypt
from beowulf.pki import identity

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
CALLERS = [
    *PLAYBOOKS,
    *sorted((ROOT / "molecule").rglob("*.yml")),
    *sorted((ROOT / "tests/testinfra/playbooks").glob("*.yml")),
    *sorted((ROOT / "tests/roles/alone").glob("*.yml")),
    *(path for role in ROLES for folder in ("tasks", "handlers") for path in sorted((role / folder).rglob("*.yml"))),
]
"""Files that may call a role."""
PREFIX = "ansible.builtin."
CALLS = ("import_role", "include_role")
OWN = (*CALLS, "assert", "group_by", "meta")
"""What a playbook does itself: it calls roles, keeps track of its hosts, and refuses to begin."""
LISTS = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")
ASKED_LATE = {("ca", "revoke"): {"ca_passphrase"}}
"""Variables that a specification leaves out on purpose; the reason is beside it."""


def read(path: Path) -> Any:
    """Return what a YAML file holds, or nothing for one that is not there."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def tasks_of(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the tasks of a file, those in plays and blocks as well."""
    for one in node if isinstance(node, list) else []:
        inner = [one[key] for key in LISTS if key in one]
        for each in inner:
            yield from tasks_of(each)
        if not inner and not {"hosts", f"{PREFIX}import_playbook"} & set(one):
            yield one


def module(task: Mapping[str, Any]) -> str:
    """Return the module of a task, without the prefix of Ansible's own."""
    return next((key for key in task if "." in key), "").removeprefix(PREFIX)


def calls(path: Path) -> set[tuple[str, str]]:
    """Return (role, entry point) of what a file calls."""
    content = read(path)
    found = set()
    for play in content if isinstance(content, list) else []:
        found |= {(each["role"], "main") for each in play.get("roles", ())}
    for task in tasks_of(content):
        if module(task) in CALLS:
            called = task[PREFIX + module(task)]
            found.add((called["name"], str(called.get("tasks_from", "main")).removesuffix(".yml")))
    return found


def specifications(role: str) -> dict[str, Any]:
    """Return the entry points that a role specifies."""
    return read(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]


def sources(role: Path) -> list[Path]:
    """Return the files of a role whose text Ansible reads."""
    return [path for path in sorted(role.rglob("*")) if path.suffix in (".yml", ".j2") and "meta" not in path.parts]


def facts_set(path: Path) -> set[str]:
    """Return the names that the tasks of a file give to facts."""
    return {name for task in tasks_of(read(path) or []) for name in task.get(f"{PREFIX}set_fact") or {}}


def left_by(role: Path) -> tuple[set[str], set[str]]:
    """Return the names that a role gives to variables: those of its own (`__x`), and those that others may read."""
    names = set(read(role / "vars" / "main.yml"))
    for path in sources(role):
        text = path.read_text(encoding="utf-8")
        names |= set(re.findall(r"^\s*(?:- )?(?:register|loop_var|index_var): *(\w+)", text, re.MULTILINE))
        names |= set(re.findall(r"(?:^\s*|[{,] *)(__\w+):", text, re.MULTILINE))
        if path.parent.name in ("tasks", "handlers"):
            names |= facts_set(path)
    private = {name for name in names if name.startswith("__")}
    # A fact of Ansible's own, such as ansible_host, is nobody's result.
    return private, {name for name in names - private if name.startswith(f"{role.name}_")}


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_a_playbook_contains_roles(path):
    """What is to be done is in a role, where it has a specification and can be called from elsewhere."""
    assert [task["name"] for task in tasks_of(read(path)) if module(task) not in OWN] == []


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_a_playbook_calls_a_whole_role_by_its_name(path):
    """`roles:` says so. A task is for an entry point, and for a role between the tasks of a play that needs both."""
    for play in read(path):
        called = [task for task in play.get("tasks", ()) if module(task) in CALLS]
        entries = [task for task in called if "tasks_from" in task[PREFIX + module(task)]]
        assert entries or not called, f"{play['name']}: write it as `roles:`"


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_called_has_a_specification(path):
    for role, entry in calls(path):
        assert entry in specifications(role), f"{role}/meta/argument_specs.yml has no {entry}"


def test_the_calls_are_found():
    assert len({call for path in CALLERS for call in calls(path)}) > 50


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_specified_entry_point_exists(role):
    for entry in specifications(role.name):
        assert (role / "tasks" / f"{entry}.yml").exists(), entry


def names_in(text: str, role: str) -> set[str]:
    """Return the variables of a role that a text names, without what is between single quotes."""
    return set(re.findall(rf"\b(?:__)?{role}_\w+", re.sub(r"'[^'\n]*'", "", text)))


def readable(role: Path, entry: str) -> list[Path]:
    """Return the files that an entry point reads, as far as their names are written down."""
    found: list[Path] = []
    waiting = [role / "tasks" / f"{entry}.yml"]
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found.append(path)
        if path.suffix == ".yml":
            text = path.read_text(encoding="utf-8")
            waiting += [role / "tasks" / name for name in re.findall(r"(?:import_tasks|include_tasks|file): *([\w.-]+\.yml)", text)]
            for name in re.findall(r"src: *[\"']?([\w./{}\[\] -]+?\.j2)", text):
                waiting += (role / "templates").glob(re.sub(r"\{\{.*?\}\}", "*", name))
            waiting += [role / "handlers" / "main.yml"] if "notify:" in text else []
    return found


def read_by(role: Path, entry: str) -> set[str]:
    """Return the options that an entry point reads, by way of the role's own variables as well."""
    own = read(role / "vars" / "main.yml")
    texts = []
    for path in readable(role, entry):
        lines = path.read_text(encoding="utf-8").splitlines()
        texts.append("\n".join(line for line in lines if path.suffix == ".j2" or not line.lstrip().startswith("#")))
    given = {name for text in texts for name in re.findall(rf"^ +({role.name}_\w+):", text, re.MULTILINE)}
    found: set[str] = set()
    waiting = set().union(*(names_in(text, role.name) for text in texts))
    while waiting:
        name = waiting.pop()
        found.add(name)
        if name in own:
            waiting |= names_in(yaml.safe_dump(own[name], width=10_000), role.name) - found
    options = set().union(*(spec["options"] for spec in specifications(role.name).values()))
    return (found & options) - given


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_specification_names_what_its_entry_point_reads(role):
    for entry, spec in specifications(role.name).items():
        lacking = read_by(role, entry) - set(spec["options"]) - ASKED_LATE.get((role.name, entry), set())
        assert not lacking, f"{role.name}/meta/argument_specs.yml, {entry}: {', '.join(sorted(lacking))}"


def outside(role: Path, files: Iterable[Path], names: set[str]) -> list[str]:
    """Return where files outside of a role use one of these names."""
    found = []
    for path in files:
        if not path.is_relative_to(role):
            used = names & set(re.findall(r"\b__\w+", path.read_text(encoding="utf-8")))
            found += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(used)]
    return found


def test_what_is_a_roles_own_is_used_nowhere_else():
    """Of tests only those of a unit reach into a role: they stand in for what it would have asked a node."""
    folders = ("playbooks", "inventory", "molecule", "roles", "tests/testinfra", "tests/roles/alone")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.suffix in (".yml", ".j2")]
    private = {role: left_by(role)[0] for role in ROLES}
    assert sum(map(len, private.values())) > 200
    assert [use for role, names in private.items() for use in outside(role, files, names)] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_a_role_leaves_for_others_is_described(role):
    """Its options are what comes in. What comes out is in the description of an entry point, as C(name)."""
    specs = specifications(role.name)
    described = set(re.findall(r"C\((\w+)\)", " ".join(str(spec.get("description", "")) for spec in specs.values())))
    options = set().union(*(spec["options"] for spec in specs.values()))
    assert left_by(role)[1] - options - described == set()


@functools.cache
def all_facts() -> set[str]:
    """Return the names that the tasks of all roles give to facts."""
    return set().union(*(facts_set(path) for role in ROLES for path in (role / "tasks").glob("*.yml")))


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.name)
def test_a_role_is_not_conditional_on_what_a_run_with_other_tags_does_not_know(path):
    """Ansible checks the arguments of a role in every run, whatever its tags, and asks for the role's condition then."""
    # What a role's variables say is known all over the play.
    results = all_facts()
    assert "ca_reachable" in results
    for play in read(path):
        for one in [*play.get("roles", ()), *(task for task in play.get("tasks", ()) if module(task) == "import_role")]:
            asked = re.findall(r"(\w+)( \| default\()?", str(one.get("when", "")))
            assert [name for name, default in asked if name in results and not default] == [], one


SHARED = [  # what a command assumes of a node, and the variable of a role that says so there
    (backup.REPOSITORY, "backup", "backup_repository"),
    (reencrypt.REPOSITORY, "backup", "backup_repository"),
    (compute.JOBS, "jobs", "jobs_path"),
    (identity.FOLDER, "ca", "ca_folder"),
    (kea_control.SOCKET, "dhcp", "__dhcp_control_socket"),
]


@pytest.mark.parametrize(("assumed", "role", "variable"), SHARED, ids=lambda value: str(value))
def test_a_command_looks_where_the_role_has_put_it(assumed, role, variable):
    """By the default of the role, and by what the inventory says instead."""
    folder = ROOT / "roles" / role
    places = {read(folder / part / "main.yml").get(variable) for part in ("defaults", "vars")} - {None}
    places |= {read(path).get(variable) for path in (ROOT / "inventory/group_vars").rglob("*.yml")} - {None}
    assert places == {assumed}
