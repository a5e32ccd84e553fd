"""Programs on nodes, and what they share with the operator's side: each thing is written once."""

from __future__ import annotations

import ast
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


# What others say is read there: daemons of broken files, and nodes.
READERS = [*PROGRAMS, *(ROOT / "beowulf" / name for name in ("compute.py", "drill_lab.py", "lock.py"))]


def strict_readers(source: str) -> list[str]:
    """Return the calls that read the output of a program as text, and end where it is none."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [{keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} for call in calls]
    return [ast.unparse(call) for call, words in zip(calls, named, strict=True) if words.get("text") == "True" and "errors" not in words]


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.name)
def test_bytes_that_are_no_text_end_no_program(path):
    """A zone file of noise, of which BIND's tools show a line, ended the repair of that zone."""
    assert strict_readers(path.read_text(encoding="utf-8")) == []


PLACES = re.compile(r"/usr/local/(?:lib|bin|sbin)/[\w./-]*\w")
MADE = {
    "/usr/local/bin/k3s": "downloaded",
    "/usr/local/bin/kubectl": "a link to k3s",
    "/usr/local/lib/k3s": "the folder of downloaded releases",
    "/usr/local/bin/mpirun": "the same template as mpiexec",
    "/usr/local/lib/distcc/bin": "links, made by systemd-tmpfiles",
    "/usr/local/lib/distcc/server": "links, made by systemd-tmpfiles",
    "/usr/local/lib/beowulf/status-page": "removed: its name until version 0.1",
}
"""Paths that no file of a role is installed as, and where they come from."""


def installed() -> set[str]:
    """Return the paths on nodes of the files of all roles, and of the folders that they are in."""
    found = set()
    for folder, suffix in (("files", ""), ("templates", ".j2")):
        for path in ROOT.glob(f"roles/*/{folder}/usr/local/**/*"):
            found.add("/" + path.as_posix().rpartition(f"/{folder}/")[2].removesuffix(suffix))
    return found


@pytest.mark.parametrize("role", sorted((ROOT / "roles").iterdir()), ids=lambda role: role.name)
def test_a_program_that_a_role_names_is_installed_under_that_name(role):
    """A unit or a script that starts what is not there fails on the node alone, and maybe in silence."""
    if role.name == "lab":
        pytest.skip("its files are those of an image, which has them elsewhere")
    known = installed() | set(MADE)
    texts = [path for path in role.rglob("*") if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts]
    missing = {
        (path.name, name)
        for path in texts
        for name in PLACES.findall(path.read_text(encoding="utf-8", errors="replace"))
        if name not in known
    }
    assert missing == set()
