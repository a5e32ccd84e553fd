"""Commands on nodes: a program in the place of ssh says what it was given, and does what a node's shell would."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from beowulf import ssh
from beowulf.cluster import Cluster

AWKWARD = ["it's", 'a "b" $HOME `id` \\', "", "two\nlines", "*", "~", "-n", "; false #", "ä"]


def understood(program, *words):
    """Return the settings that the real ssh takes from a command."""
    return subprocess.run([program, "-F", "none", "-G", *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The node alpha: its shell runs the last word that ssh got, sudo runs what it is given; `told()` are the words that ssh got."""
    (tmp_path / "ssh").write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump(sys.argv[1:], open({str(tmp_path / 'told')!r}, 'w'))\n"
        f"os.environ['PATH'] = {str(tmp_path)!r} + os.pathsep + os.environ['PATH']\n"
        "os.execlp('sh', 'sh', '-c', sys.argv[-1])\n"
    )
    (tmp_path / "sudo").write_text('#!/bin/sh\ntest "$1" = -n || exit 99\nshift\nAS_ROOT=yes exec "$@"\n')
    for name in ("ssh", "sudo"):
        (tmp_path / name).chmod(0o755)
    cluster = Cluster("lab")
    monkeypatch.setattr(cluster, "ssh", lambda node: [str(tmp_path / "ssh"), "-o", "ConnectTimeout=4", node])
    cluster.told = lambda: json.loads((tmp_path / "told").read_text())
    return cluster


@pytest.mark.parametrize("root", [False, True])
def test_words_arrive_as_they_were_given(node, root):
    program = "import json, os, sys; print(json.dumps([os.environ.get('AS_ROOT'), *sys.argv[1:]]))"
    result = ssh.run(node, "alpha", ["python3", "-c", program, *AWKWARD], root=root)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == ["yes" if root else None, *AWKWARD]


@pytest.mark.parametrize("root", [False, True])
def test_a_text_is_a_program_of_the_shell_there(node, root):
    program = """for one in 'it'"'"'s' "$0"; do echo "$one:${AS_ROOT-}"; done | tr a-z A-Z; exit 3"""
    result = ssh.run(node, "alpha", program, root=root)
    assert (result.returncode, result.stdout) == (3, f"IT'S:{'YES' if root else ''}\nSH:{'YES' if root else ''}\n")


def test_nobody_is_asked_unless_that_is_wanted(node):
    ssh.run(node, "alpha", ["true"])
    assert "BatchMode=yes" in node.told()
    ssh.run(node, "alpha", ["true"], may_ask=True)
    assert "BatchMode=yes" not in node.told()


def test_an_option_goes_before_that_of_every_connection(node):
    """Of two, ssh takes the first."""
    ssh.run(node, "alpha", ["true"], options=(*ssh.FRESH, *ssh.connect_within(2)))
    assert [word for word in node.told() if word.startswith("ConnectTimeout")] == ["ConnectTimeout=2", "ConnectTimeout=4"]
    assert node.told()[-2:] == ["alpha", "true"]
    assert "connecttimeout 2\n" in understood("ssh", *ssh.connect_within(2), "-o", "ConnectTimeout=4", "alpha")


def test_input_limits_and_the_end_of_time(node):
    assert ssh.run(node, "alpha", ["cat"], text="x" * 70000).stdout == "x" * 70000
    assert ssh.run(node, "alpha", ["yes"], limit=4096).returncode == 125
    assert ssh.run(node, "alpha", ["sleep", "9"], timeout=0.3).returncode == 124


def test_rsync_gets_the_way_without_the_address(node, tmp_path):
    assert ssh.rsync(node, "alpha") == (f"{tmp_path}/ssh -o ConnectTimeout=4", "alpha")


def test_a_connection_that_was_kept_is_ended(node, tmp_path):
    ssh.hang_up(node, "alpha", ["-o", f"ControlPath={tmp_path}/%C"])
    assert node.told() == ["-O", "exit", "-o", f"ControlPath={tmp_path}/%C", "-o", "ConnectTimeout=4", "alpha"]


def test_a_node_is_reached_as_its_rack_says():
    lab = Cluster("lab")
    way = ssh.way(lab, "alpha")
    assert (way[0], way[-1]) == ("ssh", str(lab.rack.nodes["alpha"].address))
    assert f"HostKeyAlias=alpha.{lab.rack.domain}" in way
    assert lab.ssh("alpha") == way
    shown = understood(*way)
    assert "stricthostkeychecking true\n" in shown
    assert "identitiesonly yes\n" in shown
