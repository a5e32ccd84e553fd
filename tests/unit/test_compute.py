"""What the compute nodes' tasks work out and what they refuse, without compute nodes."""

from __future__ import annotations

import subprocess

import pytest

from beowulf import compute, mpi_check
from beowulf.__main__ import named
from beowulf.cluster import Cluster
from beowulf.errors import Refusal

SLOTS = {"gamma": 4, "delta": 4, "zeta": 1}


@pytest.mark.parametrize(
    ("ranks", "per_node", "expected"),
    [
        (0, 0, (9, ["gamma", "delta", "zeta"])),
        (4, 0, (4, ["gamma"])),
        (5, 0, (5, ["gamma", "delta"])),
        (0, 1, (3, ["gamma", "delta", "zeta"])),
        (2, 1, (2, ["gamma", "delta"])),
    ],
)
def test_ranks_fill_the_nodes_in_order(ranks, per_node, expected):
    assert compute.places(SLOTS, ranks, per_node) == expected


@pytest.mark.parametrize(
    ("ranks", "per_node", "words"),
    [
        (10, 0, r"-n 10: the compute nodes have 9 slots \(gamma 4, delta 4, zeta 1\)"),
        (4, 1, "-n 4: the compute nodes have 3 slots"),
        (0, 2, "--per-node 2: zeta has only 1 slots"),
        (-1, 0, "1 or more"),
        (0, -1, "1 or more"),
    ],
)
def test_more_ranks_than_slots_are_refused(ranks, per_node, words):
    with pytest.raises(Refusal, match=words):
        compute.places(SLOTS, ranks, per_node)


def test_a_python_program_takes_along_what_it_imports_from_beside_it(tmp_path):
    (tmp_path / "pack" / "deep").mkdir(parents=True)
    for name, text in {
        "main.py": "import json, pack.table\ndef late():\n    from own import x\n",
        "own.py": "import other\n",
        "other.py": "",
        "stranger.py": "",
        "pack/__init__.py": "",
        "pack/table.py": "from . import deep\n",
        "pack/deep/data.txt": "",
    }.items():
        (tmp_path / name).write_text(text)
    found = compute.program(str(tmp_path / "main.py"))
    assert next(iter(found)) == "main.py"
    assert set(found) == {"main.py", "own.py", "other.py", "pack/__init__.py", "pack/table.py", "pack/deep/data.txt"}
    assert compute.beside(found) == ["stranger.py"]


def test_a_whole_folder_goes_along_without_what_leads_out_of_it(tmp_path):
    folder = tmp_path / "tree"
    for name in ("test/main.py", "test/test_a.py", ".git/HEAD", "test/__pycache__/a.pyc", "data.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "inside").symlink_to("data.txt")
    (folder / "etc").symlink_to("/etc")
    (folder / "secret").symlink_to(tmp_path / "secret")
    found, left = compute.whole(str(folder / "test" / "main.py"), str(folder))
    assert next(iter(found)) == "test/main.py"
    assert set(found) == {"test/main.py", "test/test_a.py", "data.txt", "inside"}
    assert set(left) == {".git", "test/__pycache__", "etc", "secret"}


def test_a_folder_that_is_too_large_or_another_ones_is_refused(tmp_path, monkeypatch):
    (tmp_path / "main.py").write_text("x = 1\n")
    with pytest.raises(Refusal, match="no such folder"):
        compute.whole(str(tmp_path / "main.py"), str(tmp_path / "none"))
    (tmp_path / "other").mkdir()
    with pytest.raises(Refusal, match="is not in it"):
        compute.whole(str(tmp_path / "main.py"), str(tmp_path / "other"))
    monkeypatch.setattr(compute, "FOLDER_LIMIT", 5)
    with pytest.raises(Refusal, match="more than 0 MB"):
        compute.whole(str(tmp_path / "main.py"), str(tmp_path))


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from mpi4py.futures import MPIPoolExecutor\n", "mpi4py.futures"),
        ("import mpi4py.futures as f\nwith f.MPIPoolExecutor() as pool: pass\n", "mpi4py.futures"),
        ("from mpi4py.futures import MPICommExecutor\n", "mpi4py"),
        ("from mpi4py import MPI\n", "mpi4py"),
    ],
)
def test_a_pool_is_given_the_ranks_as_its_workers(tmp_path, source, module):
    """It would spawn them, and wait for ever."""
    path = tmp_path / "main.py"
    path.write_text(source)
    assert compute.command_for(None, "gamma", "/srv/jobs/x", "main.py", path)[-2:] == [module, "main.py"]


def test_a_c_program_takes_along_what_it_includes_from_its_folder(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "main.c").write_text('#include <stdio.h>\n  #  include "part/a.h"\n// #include "no.h"\n#include "gone.h"\n')
    (tmp_path / "part" / "a.h").write_text('#include "b.h"\n#include "../c.h"\n')
    for name in ("part/b.h", "c.h", "no.h"):
        (tmp_path / name).write_text("")
    assert list(compute.program(str(tmp_path / "main.c"))) == ["main.c", "part/a.h", "part/b.h", "c.h"]


@pytest.mark.parametrize("suffix", ["py", "c"])
def test_files_that_need_each_other_come_once(tmp_path, suffix):
    line = {"py": "import {}\n", "c": '#include "{}.c"\n'}[suffix]
    (tmp_path / f"a.{suffix}").write_text(line.format("b"))
    (tmp_path / f"b.{suffix}").write_text(line.format("a"))
    assert list(compute.program(str(tmp_path / f"a.{suffix}"))) == [f"a.{suffix}", f"b.{suffix}"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "", "is no program"),
        ("a.py", "def (", "is no Python"),
        ("in/a.c", '#include "../a.h"\n', "includes ../a.h, which is not in the folder"),
        ("gone", None, "There is no file"),
    ],
)
def test_what_is_no_program_is_refused(tmp_path, name, text, words):
    path = tmp_path / name
    (tmp_path / "a.h").write_text("")
    if text is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    with pytest.raises(Refusal, match=words):
        compute.program(str(path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mpi", "/no/such/program"], "There is no file /no/such/program."),
        (["mpi", "examples/pi.c", "-n", "17"], "-n 17: the compute nodes have 16 slots (gamma 4, delta 4, epsilon 4, zeta 4)."),
        (["mpi", "examples/pi.c", "-n", "many"], "This is no number: "),
        (["mpi", "examples/pi.c", "--fetch", "/no/such/folder"], "--fetch /no/such/folder: there is no such folder."),
        (["mpi"], "did not receive required positional arguments: 'file'"),
        (["mpi.check", "--cluster", "labb"], "There is no cluster 'labb'"),
    ],
)
def test_mistakes_are_refused_before_a_node_is_asked(operator, monkeypatch, arguments, words):
    monkeypatch.chdir(compute.ROOT)
    result = operator(*arguments, BEOWULF_CLUSTER="lab")
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert words in result.stderr


def test_a_node_that_does_not_share_the_folder_takes_no_part(monkeypatch):
    monkeypatch.setattr(compute, "output", lambda *_: pytest.fail("a node was asked"))
    lab = Cluster("lab")
    monkeypatch.setitem(lab.derived.groups, "jobs", ["gamma", "delta"])
    with pytest.raises(Refusal, match="epsilon, zeta do not share /srv/jobs"), compute.job(lab, NODES, {"a.py": compute.ROOT}):
        pytest.fail("it went on")


def test_words_after_two_dashes_are_handed_on_as_they_are():
    assert named(["mpi", "x", "--", "drill", "a b"]) == ["mpi", "x", "--", "drill", "'a b'"]
    assert named(["drill", "a", "-n"]) == ["drill", "--name", "a", "-n"]


def attended(tmp_path, *command, end):
    """Run a command as on a node, with a connection that ends at once or when the command does."""
    with subprocess.Popen(
        ["bash", "-c", compute.ATTENDED, "bash", str(tmp_path), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as shell:
        if end:
            shell.stdin.close()
        code = shell.wait(timeout=20)
        return code, shell.stdout.read(), shell.stderr.read()


def test_what_runs_on_a_node_ends_with_its_own_code_or_with_the_connection(tmp_path):
    assert attended(tmp_path, "sh", "-c", "pwd; exit 7", end=False) == (7, f"{tmp_path}\n", "")
    # 255 is what ssh says when it lost the node.
    assert attended(tmp_path, "sh", "-c", "exit 255", end=False)[0] == 254
    code, _output, _error = attended(tmp_path, "sleep", "60", end=True)
    assert code == 128 + 15


PAIRS = ["gamma delta", "gamma epsilon", "gamma zeta", "delta epsilon", "delta zeta", "epsilon zeta"]
NODES = ["gamma", "delta", "epsilon", "zeta"]


def found(latency=(), bandwidth=(), speed=(), right=True):
    return {
        "nodes": NODES,
        "latency_us": dict.fromkeys(PAIRS, 90.0) | dict(latency),
        "bandwidth_mb_s": dict.fromkeys(PAIRS, 11.0) | dict(bandwidth),
        "gflops": dict.fromkeys(NODES, 1.5) | dict(speed),
        "allreduce": {"right": right, "ms": 9.0},
    }


BOARDS = dict.fromkeys(NODES, "3B")


def test_healthy_compute_nodes_has_no_problems():
    assert compute.problems(found(), BOARDS) == []


def test_one_bad_way_is_named():
    assert compute.problems(found(latency={"delta zeta": 271.0}), BOARDS) == ["latency: delta - zeta 271.0 µs, the median is 90.0"]
    assert compute.problems(found(latency={"delta zeta": 269.0}), BOARDS) == []


def test_the_cable_that_all_bad_ways_have_in_common_is_blamed():
    """Half of all the pairs, so that a plain median would lie between good and bad."""
    bad = {pair: 1.0 for pair in PAIRS if "zeta" in pair}
    shown = compute.problems(found(bandwidth=bad), BOARDS)
    assert shown[0] == "bandwidth: all that is bad has zeta in it: look at its cable and its port of the switch"
    assert [line.split()[1:4] for line in shown[1:]] == [["gamma", "-", "zeta"], ["delta", "-", "zeta"], ["epsilon", "-", "zeta"]]


def test_the_worst_way_is_told_even_when_none_is_bad():
    shown = compute.report(found(latency={"delta zeta": 120.0}, bandwidth={"gamma zeta": 9.5}))
    assert "slowest way: delta - zeta, 120.0 µs" in shown
    assert "narrowest way: gamma - zeta, 9.5 MB/s" in shown
    assert not any("way" in line for line in compute.report(found() | {"latency_us": {}, "bandwidth_mb_s": {}}))


def test_of_two_bad_cables_each_way_is_named_and_nobody_is_blamed():
    bad = {"gamma delta": 900.0, "epsilon zeta": 900.0}
    assert [line.partition(" 900")[0] for line in compute.problems(found(latency=bad), BOARDS)] == [
        "latency: gamma - delta",
        "latency: epsilon - zeta",
    ]


def test_boards_are_compared_with_those_of_their_kind():
    speed = {"delta": 0.4}
    assert compute.problems(found(speed=speed), BOARDS)[0].startswith("speed: delta 0.40 GFlop/s, the median of its kind is 1.50")
    assert compute.problems(found(speed=speed), BOARDS | {"delta": "B+"}) == []


def test_a_wrong_sum_is_a_problem():
    assert compute.problems(found(right=False), BOARDS) == ["allreduce: the sum is wrong"]
    assert "WRONG" in "\n".join(compute.report(found(right=False)))


def test_a_matrix_is_symmetric_and_marks_outliers():
    lines = compute.matrix("latency, µs", NODES, dict.fromkeys(PAIRS, 1.5) | {"delta zeta": 99.0}, ["delta zeta"])
    assert [line.split() for line in lines] == [
        ["latency,", "µs", *NODES],
        ["gamma", "-", "1.5", "1.5", "1.5"],
        ["delta", "1.5", "-", "1.5", "99.0!"],
        ["epsilon", "1.5", "1.5", "-", "1.5"],
        ["zeta", "1.5", "99.0!", "1.5", "-"],
    ]


def test_the_better_of_two_measurements_counts():
    assert mpi_check.better(None, 5, True) == 5
    assert mpi_check.better(4, 5, True) == 4
    assert mpi_check.better(4, 5, False) == 5
    assert mpi_check.outliers({}, True) == []
