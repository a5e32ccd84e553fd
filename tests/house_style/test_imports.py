"""The modules of beowulf/: who imports whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    path.relative_to(ROOT / "beowulf").with_suffix("").as_posix().replace("/", "."): ast.parse(path.read_text(encoding="utf-8"))
    for path in (ROOT / "beowulf").rglob("*.py")
}


def imported(tree: ast.AST) -> set[str]:
    """Return the modules of beowulf/ that a piece of code imports, but for those that only its types need."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "beowulf":
            parts = node.module.split(".")[1:]
            names = {".".join(parts), *(".".join([*parts, alias.name]) for alias in node.names)}
            found |= names & set(MODULES)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("beowulf.") for alias in node.names if alias.name.startswith("beowulf.")} & set(MODULES)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"a relative import, which is not followed here: {ast.unparse(node)}")
        found |= imported(node)
    return found


def test_no_module_needs_itself():
    """A circle is where it is not known what stands on what, and which import comes first."""
    needs = {name: imported(tree) for name, tree in MODULES.items()}
    assert needs["deploy"] >= {"pki.certificates", "playbook"}
    for name in needs:
        reached, ahead = set(), set(needs[name])
        while ahead:
            one = ahead.pop()
            reached.add(one)
            ahead |= needs[one] - reached
        assert name not in reached, f"beowulf/{name}.py imports itself, by way of {sorted(needs[name] & reached)}"


def test_modules_are_imported_at_the_top():
    """What is imported in a function hides who needs whom; tasks.py alone does that, so that the list of tasks is there at once."""
    inner = {
        name: sorted(set().union(*(imported(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))))
        for name, tree in MODULES.items()
    }
    assert {name: found for name, found in inner.items() if found} == {}


def test_the_collection_is_imported_behind_ansibles_loader():
    """Where both are in one process, Ansible finds nothing in a collection that Python has imported by itself before."""
    program = (
        "import sys, beowulf.inventory, beowulf.first_contact  # the latter by the tests, before those of the collection\n"
        "assert not [name for name in sys.modules if name.startswith('ansible_collections')]"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
