"""How the operator's commands call Ansible."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def words(path: Path) -> list[str]:
    """Return the texts in a program, those of f-strings too, but for its docstrings and other texts that do nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    idle = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in texts if id(node) not in idle]


@pytest.mark.parametrize("path", [ROOT / "tasks.py", *sorted((ROOT / "beowulf").glob("*.py"))], ids=lambda path: path.name)
def test_variables_reach_ansible_in_a_file_of_plain_values(path):
    """On the command line a value is a template, which may run commands here; a node may have written it."""
    assert [word for word in words(path) if word == "-e" or ("--extra-vars" in word and not word.endswith("--extra-vars=@"))] == []
