"""What people are told to do: every command that a message, a page or a comment names is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tasks import ns  # noqa: E402  # the tasks are at the top of the project

# With the name of a group; a single word after `invoke` may be prose, or Python's.
GROUPED = re.compile(r"(?:\./bootstrap|\binvoke) (?:--controller-only )?([a-z]\w*\.[a-z]\w*)\b(?!\()")
# Behind a name may be the end of a sentence; a point with a backslash is in a pattern of a test.
SINGLE = re.compile(r"\./bootstrap (?:--controller-only )?([a-z]\w*)\b(?!\.\w|\\)")
PROSE = {"is", "refuses", "takes", "where"}


def commands(text: str) -> set[str]:
    """Return the commands that a text names."""
    return {*GROUPED.findall(text), *SINGLE.findall(text)} - PROSE


def told() -> dict[str, set[str]]:
    """Return each command that a file of the project names, with the files: {command: {path}}."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    found: dict[str, set[str]] = {}
    for name in filter(None, listed):
        path = ROOT / name
        if (path != Path(__file__) and path.suffix in (".md", ".py", ".yml", ".j2", ".sh")) or path.name == "bootstrap":
            for command in commands(path.read_text(encoding="utf-8")):
                found.setdefault(command, set()).add(name)
    return found


def test_each_way_to_name_a_command_is_seen():
    text = "`./bootstrap deply --tags dns`, ./bootstrap k3s.remov NODE; invoke ca.list. "
    text += "./bootstrap --controller-only rack.chek: from invoke import; say ./bootstrap statis."
    assert commands(text) == {"deply", "k3s.remov", "ca.list", "rack.chek", "statis"}


def test_every_command_that_is_told_is_a_task():
    tasks = set(ns.task_names) | {alias for aliases in ns.task_names.values() for alias in aliases}
    unknown = {command: sorted(files) for command, files in told().items() if command not in tasks}
    assert unknown == {}
