"""What a node says becomes no path on the controller, which writes there with the rights of the person who runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(path for path in (ROOT / "roles").iterdir() if path.is_dir()), *(ROOT / "playbooks").glob("*.yml")])
PREFIX = "ansible.builtin."
IMPORT = f"{PREFIX}import_tasks"
WRITERS = ("assemble", "copy", "file", "get_url", "lineinfile", "replace", "tempfile", "template", "unarchive")
"""Modules that write where they are told to; on a node that is the node's affair."""
PLACES = ("dest", "path", "src")
LOCAL = ("localhost", "127.0.0.1")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def is_local(part: Mapping[str, Any], around: bool) -> bool:
    """Return whether a play, a block or a task runs on the controller."""
    if "delegate_to" in part:
        return part["delegate_to"] in LOCAL
    return around or part.get("connection") == "local" or part.get("hosts") in LOCAL


def tasks_of(
    path: Path, parts: list[Mapping[str, Any]], local: bool = False, names: Mapping[str, Any] | None = None, follow: bool = True
) -> Iterator[tuple]:
    """Yield (task, whether it runs on the controller, the variables around it) of a file and of those that it imports."""
    for part in parts:
        here = is_local(part, local)
        known = {**(names or {}), **(part.get("vars") or {})}
        inner = [part[key] for key in ("block", "rescue", "always", "pre_tasks", "tasks", "post_tasks", "handlers") if key in part]
        inner += [read(path.parent / part[IMPORT])] if IMPORT in part and follow else []
        for each in inner:
            yield from tasks_of(path, each, here, known, follow)
        if not inner:
            yield part, here, known


def of(source: Path) -> list[tuple]:
    """Return the tasks of a role or a playbook, with the variables that its files give."""
    if source.is_file():
        return list(tasks_of(source, read(source)))
    names = {}
    for folder in ("defaults", "vars"):
        for path in sorted((source / folder).glob("*.yml")):
            names |= read(path)
    files = [*sorted((source / "tasks").glob("*.yml")), *sorted((source / "handlers").glob("*.yml"))]
    imported = {part[IMPORT] for path in files for part, *_rest in tasks_of(path, read(path) or [], follow=False) if IMPORT in part}
    return [one for path in files if path.name not in imported for one in tasks_of(path, read(path) or [], names=names)]


def words(value: Any, known: Mapping[str, Any], loop: Any = None) -> set[str]:
    """Return the names in the templates of a value, and in those of the variables that they name.

    Not those that only choose from a table of ours, as in table[answer]; but what is taken out of hostvars by a name in quotes.
    """
    found: set[str] = set()
    waiting = [value]
    while waiting:
        inner = " ".join(re.findall(r"\{\{(.*?)\}\}", str(waiting.pop()), re.DOTALL))
        taken = re.findall(r"""['"](?:ansible_facts|__\w+)""", inner) if "hostvars" in inner else []
        inner = re.sub(r"\[\w+\]", "", re.sub(r"'[^']*'|\"[^\"]*\"", "''", inner))
        for name in {*re.findall(r"(?<![\w.'])[A-Za-z_]\w*", inner), *(each[1:] for each in taken)} - found:
            found.add(name)
            waiting += [known[name]] if name in known else []
            waiting += [loop] if name == "item" and loop is not None else []
    return found


def answers(tasks: list[tuple]) -> set[str]:
    """Return the names of what nodes said, without those that an assert has compared with a pattern."""
    said = {"ansible_facts"}
    said |= {task["register"] for task, local, _names in tasks if "register" in task and not local}
    checked = set()
    for task, _local, names in tasks:
        conditions = task.get(f"{PREFIX}assert", {}).get("that", [])
        for condition in [conditions] if isinstance(conditions, str) else conditions:
            if re.search(r"\bis (?:ansible\.builtin\.)?(?:match|regex)\(", condition):
                checked |= words("{{" + condition + "}}", names)
    return said - checked


def paths_from_answers(source: Path) -> list[str]:
    """Return the tasks of a role or a playbook that write on the controller at a place that a node chooses."""
    tasks = of(source)
    said = answers(tasks)
    found = []
    for task, local, names in tasks:
        module = next((name for name in task if name.startswith(PREFIX)), "").removeprefix(PREFIX)
        if module != "fetch" and not (local and module in WRITERS):
            continue
        # The source of a fetch is a path of the node.
        places = ("dest",) if module == "fetch" else PLACES
        arguments = {key: value for key, value in (task[PREFIX + module] or {}).items() if key in places}
        if names_in := words(list(arguments.values()), names, task.get("loop")) & said:
            found.append(f"{task['name']}: {', '.join(sorted(names_in))}")
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_answer_of_a_node_is_a_path_on_the_controller(source):
    assert paths_from_answers(source) == []


def test_the_rule_finds_one(tmp_path):
    """What reaches a path by way of a variable, in a block that is delegated; neither one that was checked nor the controller's own."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "vars").mkdir()
    (tmp_path / "vars" / "main.yml").write_text("place: '{{ cache }}/{{ said.stdout }}'\n", encoding="utf-8")
    play = """
- {name: Ask, ansible.builtin.command: uname, register: said}
- {name: Ask here, ansible.builtin.command: uname, register: own, delegate_to: localhost}
- {name: Fetch, ansible.builtin.fetch: {src: /x, dest: "{{ place }}/"}}
- {name: Choose, ansible.builtin.fetch: {src: /x, dest: "{{ cache }}/{{ table[item] }}"}, loop: "{{ said.stdout_lines }}"}
- {name: Take, ansible.builtin.fetch: {src: /x, dest: "{{ hostvars['other']['__answer'].stdout }}"}}
- {name: Ask another, ansible.builtin.command: uname, register: __answer}
- name: Here
  delegate_to: localhost
  block:
    - {name: Write, ansible.builtin.copy: {content: "{{ said.stdout }}", dest: "{{ place }}"}}
    - {name: Write own, ansible.builtin.copy: {content: "{{ said.stdout }}", dest: "{{ own.stdout }}"}}
"""
    (tmp_path / "tasks" / "main.yml").write_text(play, encoding="utf-8")
    assert paths_from_answers(tmp_path) == ["Fetch: said", "Take: __answer", "Write: said"]
    check = """- {name: Check, ansible.builtin.assert: {that: "said.stdout is match('[a-z]+$')"}}\n"""
    (tmp_path / "tasks" / "check.yml").write_text(check, encoding="utf-8")
    assert paths_from_answers(tmp_path) == ["Take: __answer"]
