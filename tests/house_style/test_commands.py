"""How the operator's commands call Ansible."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [ROOT / "tasks.py", *sorted((ROOT / "beowulf").rglob("*.py"))]


def words(path: Path) -> list[str]:
    """Return the texts in a program, those of f-strings too, but for its docstrings and other texts that do nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    idle = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in idle]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_variables_reach_ansible_in_a_file_of_plain_values(path):
    """On the command line a value is a template, which may run commands here; a node may have written it."""
    assert [word for word in words(path) if word == "-e" or ("--extra-vars" in word and not word.endswith("--extra-vars=@"))] == []


# What asks nodes: the operator's side and the drills. The tests of sshd itself (tests/testinfra) try what no command does.
SPEAKERS = [path for path in (*PROGRAMS, *sorted((ROOT / "tests" / "drills").glob("*.py"))) if path != ROOT / "beowulf" / "ssh.py"]
SHELL = (ROOT / "tasks.py", "chosen.ssh(name)")
"""A person's shell on a node, which runs no command."""


def own_ssh(source: str) -> list[str]:
    """Return where a program makes a command of ssh by itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant) and node.elts[0].value == "ssh":
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "BatchMode" in node.value:
            found.append(node.value)
        elif (
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".ssh") and ast.unparse(node.func) not in ("lab.ssh", "self.ssh")
        ):
            # A drill's Lab.ssh is ssh.command with a connection that stays.
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SPEAKERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nodes_are_reached_by_one_module(path):
    """Options and quoting are in beowulf/ssh.py, once."""
    assert [one for one in own_ssh(path.read_text(encoding="utf-8")) if (path, one) != SHELL] == []


def test_the_rule_about_ssh_finds_each_kind():
    source = 'a = ["ssh", "-O", "exit"]\nb = ("-o", "BatchMode=yes")\nc = [*cluster.ssh(node), "true"]\nd = lab.ssh(node, "true")\n'
    assert set(own_ssh(source)) == {"['ssh', '-O', 'exit']", "cluster.ssh(node)", "BatchMode=yes"}
