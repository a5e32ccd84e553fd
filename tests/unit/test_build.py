"""What `build` works out, says and refuses, without compute nodes."""

from __future__ import annotations

import subprocess

import pytest

from beowulf import build
from beowulf.errors import Failure, Refusal
from beowulf.process import ROOT

ADDRESSES = {"gamma": "10.77.0.21", "delta": "10.77.0.22"}

# As /usr/local/lib/distcc/compiler writes it, and what somebody else put there.
LOG = """\
10.77.0.22\t1\tdistcc kept it
10.77.0.22\t1\tdistcc kept it
home\t1\t-march=native, the processor of this node
home\t13\tcompiled and linked in one command
home\t2\t-march=native, the processor of this node
resort\t1\tit failed on another node
cache\t7\tdistcc kept it
no line of this kind
home\t99999999\ttoo many
home\t1\t\x1b[2Jclear
../../etc\t1\tx
"""


def rows(lines):
    return {name.strip(): int(objects) for name, objects in (line.rsplit(maxsplit=1) for line in lines[1:])}


def test_every_object_has_a_row_and_those_made_at_home_a_reason():
    lines = build.made_table(LOG, ["gamma", "delta"], ADDRESSES, 28)
    assert rows(lines) == {
        "gamma": 0,
        "delta": 2,
        "gamma, as a last resort": 1,
        "gamma, at home: compiled and linked in one command": 13,
        "gamma, at home: -march=native, the processor of this node": 3,
        "gamma, at home: ?[2Jclear": 1,
        "from the cache": 7,
        "gamma, not by gcc or g++ of PATH": 1,
    }
    assert len({len(line) for line in lines}) == 1, "the figures stand below each other"


def test_a_table_of_healthy_compute_nodes_has_no_more_than_the_nodes_and_the_zeros_that_count():
    lines = build.made_table("10.77.0.21\t1\tx\n", ["gamma", "delta"], ADDRESSES, 1)
    assert rows(lines) == {"gamma": 1, "delta": 0, "gamma, as a last resort": 0, "from the cache": 0}


def test_objects_of_a_compiler_that_was_called_by_its_path_are_no_zeros():
    assert rows(build.made_table("", ["gamma", "delta"], ADDRESSES, 13))["gamma, not by gcc or g++ of PATH"] == 13


def test_rare_reasons_share_a_row():
    log = "".join(f"home\t{number}\t-x{number}\n" for number in range(1, build.REASONS + 3))
    found = rows(build.made_table(log, ["gamma"], ADDRESSES, 0))
    assert found["gamma, at home: other reasons"] == 1 + 2
    assert sum(found.values()) == sum(range(1, build.REASONS + 3))


def tree(path, *files):
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return path


def copied(source, target, options):
    """Copy a tree as the build does it, to another folder of this machine; return what is there then."""
    subprocess.run(["rsync", "--archive", "--delete", *options, f"{source}/", f"{target}/"], check=True)
    return {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}


def test_what_is_left_out_is_said_with_the_option_that_takes_it(tmp_path):
    source = tree(tmp_path / "a", "Makefile", ".git/HEAD", "sub/blob.o", "sub/x.c")
    target = tree(tmp_path / "b", ".git/HEAD", "sub/x.o", "old.c")
    said, options = build.left_out(source, False, False)
    assert [line.split(";")[0] for line in said] == [
        "left out: .git, which is large",
        "left out: 1 object files (*.o: sub/blob.o), to be made there",
    ]
    assert "--git takes it along" in said[0]
    assert "--objects takes them along" in said[1]
    # Objects that were made there stay; an older history does not.
    assert copied(source, target, options) == {"Makefile", "sub/x.c", "sub/x.o"}
    said, options = build.left_out(source, True, True)
    assert said == []
    assert copied(source, target, options) == {"Makefile", ".git/HEAD", "sub/blob.o", "sub/x.c", "sub/x.o"}


def test_nothing_is_said_of_a_tree_that_has_neither(tmp_path):
    assert build.left_out(tree(tmp_path, "Makefile"), False, False)[0] == []


def test_a_history_that_is_elsewhere_is_refused(tmp_path):
    with pytest.raises(Refusal, match="is not there"):
        build.left_out(tmp_path, True, False)
    (tmp_path / ".git").write_text("gitdir: /elsewhere")
    with pytest.raises(Refusal, match=r"a worktree or a submodule.*Build a clone"):
        build.left_out(tmp_path, True, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "/no/such/folder"], "There is no folder /no/such/folder."),
        (["build", "docs"], "docs has neither a Makefile nor a configure script"),
        (["build", "examples", "--fetch", "/no/such/folder"], "--fetch /no/such/folder: there is no such folder."),
        (["build", "examples", "--git"], "examples/.git is not there"),
    ],
)
def test_mistakes_are_refused_before_a_node_is_asked(operator, monkeypatch, arguments, words):
    monkeypatch.chdir(ROOT)
    result = operator(*arguments, BEOWULF_CLUSTER="lab")
    assert (result.returncode, "Traceback" in result.stderr) == (2, False)
    assert words in result.stderr


def test_a_tree_for_cmake_is_refused_with_the_reason(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text("")
    with pytest.raises(Refusal, match="the nodes have no cmake"):
        build.tree_of(str(tmp_path))
    (tmp_path / "configure").write_text("")
    assert build.tree_of(str(tmp_path)) == tmp_path


GCC = (
    "Configured with: ../src/configure --with-arch={arch} --x\nTarget: {target}\nThread model: posix\ngcc version {version} (Debian)\n{cxx}"
)


def gcc(target="arm-linux-gnueabihf", version="14.2.0", arch="armv7-a+fp", cxx="14.2.0"):
    return GCC.format(target=target, version=version, arch=arch, cxx=cxx)


def test_nodes_with_equal_compilers_are_used_without_those_that_are_off():
    assert build.same_compilers({"gamma": gcc(), "delta": Failure("no route"), "zeta": gcc()}) == ["gamma", "zeta"]


@pytest.mark.parametrize(
    "difference",
    [{"version": "12.2.0"}, {"target": "aarch64-linux-gnu"}, {"arch": "armv6+fp"}, {"cxx": "13.3.0"}],
    ids=lambda one: next(iter(one)),
)
def test_the_node_with_another_compiler_is_named(difference):
    with pytest.raises(Failure, match=r"differ.*\n  delta: .*" + next(iter(difference.values())).replace("+", r"\+")) as raised:
        build.same_compilers({"gamma": gcc(), "delta": gcc(**difference), "zeta": gcc()})
    assert "gamma:" not in str(raised.value)


def test_compute_nodes_that_are_off_cannot_compile():
    with pytest.raises(Failure, match="gamma: no route"):
        build.same_compilers({"gamma": Failure("gamma: no route")})


def test_jobs_are_only_sent_to_nodes_that_are_there():
    hosts = "# Managed\n10.77.0.21:3632/4  # gamma\n10.77.0.22:3632/2  # delta\n"
    assert build.servers(hosts, ADDRESSES, ["gamma", "delta"], False) == "10.77.0.21:3632/4 10.77.0.22:3632/2"
    assert build.servers(hosts, ADDRESSES, ["delta"], True) == "10.77.0.22:3632/2,cpp,lzo"


def test_a_client_with_three_others_to_preprocess_for_compiles_nothing_itself():
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(["gamma", "delta", "epsilon", "zeta"], 21)}
    hosts = "".join(f"{address}:3632/4\n" for address in addresses.values())
    assert build.servers(hosts, addresses, list(addresses), False) == "10.77.0.22:3632/4 10.77.0.23:3632/4 10.77.0.24:3632/4"
    assert build.servers(hosts, addresses, ["gamma", "delta", "zeta"], False).split()[0] == "10.77.0.21:3632/4"
    # With pump the others preprocess, too.
    assert build.servers(hosts, addresses, list(addresses), True).split()[0] == "10.77.0.21:3632/4,cpp,lzo"
