"""Programs on nodes, and what they share with the operator's side: each thing is written once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = "collections/ansible_collections/beowulf/cluster/plugins/module_utils"
NODE = "files/usr/local/lib/beowulf"
PROGRAMS = sorted(path for path in ROOT.glob(f"roles/*/{NODE}/*.py"))


def named(pattern: str) -> set[str]:
    """Return the sources that a pattern is found in; not tests, nor what is a link to a source."""
    listed = subprocess.run(["git", "ls-files", "-z", "beowulf", "roles", "tests/drills", "collections", "tasks.py"], cwd=ROOT,
                            capture_output=True, check=True, text=True).stdout.split("\0")  # fmt: skip
    paths = [name for name in listed if name and "/tests/unit/" not in name and (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    return {name for name in paths if re.search(pattern, (ROOT / name).read_text(encoding="utf-8", errors="replace"))}


def test_kea_has_one_client():
    """Who wants something of the DHCP server imports it, or calls it over SSH."""
    assert named(r"\bsocket\.AF_UNIX\b") == {f"{SHARED}/kea_control.py"}
    # The roles say where the socket is, and Kea itself is told.
    assert named(r"kea4-ctrl-socket") == {f"{SHARED}/kea_control.py", "roles/dhcp/vars/main.yml", "roles/httpd/vars/main.yml"}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_a_program_comes_with_the_modules_that_it_imports(path):
    """Each role brings them: it works without the others, and its program is never newer than they are."""
    shared = {one.stem for one in (ROOT / SHARED).glob("*.py")}
    wanted = shared & set(re.findall(r"^(?:import|from) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    there = {one.stem: one.resolve() for one in path.parent.glob("*.py") if one.is_symlink()}
    assert {name: there.get(name) for name in wanted} == {name: ROOT / SHARED / f"{name}.py" for name in wanted}
