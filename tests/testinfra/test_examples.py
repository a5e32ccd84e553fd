"""The compute nodes compute what the examples are for, on all of them, and every two nodes exchange messages."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("mpi")

ROOT = Path(__file__).resolve().parents[2]
# What fits into one argument of a command (MAX_ARG_STRLEN of Linux)
LIMIT = 131072

# Each example in one of its languages, small; what an answer is known to begin with.
PROGRAMS = {
    "./primes": (1_000_000, "primes=78498"),
    "./factor": (1_000_003 * 10_000_019, "factors=1000003*10000019"),
    "./wordcount": (20_000, "words=200000 distinct=4096 top="),
    "python3 -m mpi4py pi.py": (1_000_000, "pi=3.14159265359"),
    "python3 -m mpi4py mandelbrot.py": (64, "mandelbrot=64x48 adler32="),
}


def as_user(host, command):
    """Standard output of a command that the user of MPI gives in a login shell."""
    result = host.run("timeout 120 sudo -u mpi -i sh -c %s || exit 1", command)
    assert result.rc == 0, result.stderr + result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def members(hostvars):
    """Names of the nodes on which ranks are to run."""
    return [node["name"] for node in next(iter(hostvars.values()))["rack_mpi_hosts"]]


@pytest.fixture(scope="module")
def folder(members, node):
    """The same folder on each node, with the examples compiled and the check beside them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted(
            [*(ROOT / "examples").glob("*.[cp]*"), *(ROOT / "examples" / "common").glob("*.*"), ROOT / "examples" / "Makefile"]
        ):
            if path.is_file():
                archive.add(path, str(path.relative_to(ROOT / "examples")))
        archive.add(ROOT / "beowulf" / "mpi_check.py", "mpi_check.py")
    encoded = base64.b64encode(packed.getvalue()).decode()
    assert len(encoded) < LIMIT
    place = as_user(node(members[0]), "mktemp -d /tmp/test_examples.XXXXXX").strip()
    try:
        for name in members:
            as_user(node(name), f"mkdir -p {place} && echo {encoded} | base64 -d | tar -xz -C {place}")
        as_user(node(members[0]), f"mpiexec -ppn 1 -n {len(members)} make --silent --directory {place} primes factor wordcount")
        yield place
    finally:
        as_user(node(members[0]), f"mpiexec -ppn 1 -n {len(members)} rm -rf {place}")


@pytest.fixture(scope="module")
def launch(members, node, folder):
    """Run a program in the folder with one rank on each node."""
    return lambda command: as_user(node(members[0]), f"cd {folder} && mpiexec -ppn 1 -n {len(members)} {command}")


def result(output):
    return re.search(r"^result: (.*)$", output, re.MULTILINE)[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_node_has_a_part_in_the_right_answer(program, members, launch):
    size, known = PROGRAMS[program]
    answers = set()
    for form in ("cluster", "efficient"):
        output = launch(f"{program} {form} {size}")
        answers.add(result(output))
        table = [line.split() for line in output.splitlines()[2 : 2 + len(members)]]
        assert sorted((row[0], row[1]) for row in table) == sorted((node, "1") for node in members)
        assert f"{form}: {len(members)} ranks" in output
    assert len(answers) == 1
    assert answers.pop().startswith(known)


def test_every_two_nodes_exchange_messages(members, launch):
    found = json.loads(launch("python3 -m mpi4py mpi_check.py"))
    assert sorted(found["nodes"]) == sorted(members)
    pairs = {frozenset(pair) for pair in itertools.combinations(members, 2)}
    for key in ("latency_us", "bandwidth_mb_s"):
        assert {frozenset(pair.split()) for pair in found[key]} == pairs
        assert all(value > 0 for value in found[key].values()), found
    assert set(found["gflops"]) == set(members)
    assert found["allreduce"]["right"]
