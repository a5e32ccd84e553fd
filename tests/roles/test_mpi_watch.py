"""A job whose node is gone is ended, and the node is named; every other end is none of the watch's business."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WATCH = ROOT / "roles/mpi/files/usr/local/lib/beowulf/mpi-watch.py"

# Stands for mpiexec: starts an "ssh" to each node, which ends with a code after some seconds, and waits for none of them.
MPIEXEC = """
import os, pathlib, signal, subprocess, sys, tempfile, time
folder = tempfile.TemporaryDirectory()
python, ssh, proxy = os.path.realpath(sys.executable), pathlib.Path(folder.name, "ssh"), pathlib.Path(folder.name, "hydra_pmi_proxy")
ssh.symlink_to(python)
proxy.symlink_to(python)
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for word in sys.argv[3:]:
    node, code, seconds = word.split(":")
    body = f"import sys, time; time.sleep({seconds}); sys.exit({code})"
    subprocess.Popen(["/usr/bin/ssh", "-c", body, "-x", node, '"/usr/bin/hydra_pmi_proxy"', "--control-port"], executable=ssh)
subprocess.Popen(["/usr/bin/hydra_pmi_proxy", "-c", "import sys; sys.exit(255)"], executable=proxy)
print("started", flush=True)
time.sleep(float(sys.argv[2]))
"""


def run(manners, seconds, *nodes):
    """Watch such a mpiexec; return its exit code, what the watch said, and how long the watch outlived it."""
    with (
        subprocess.Popen([sys.executable, "-c", MPIEXEC, manners, str(seconds), *nodes], stdout=subprocess.PIPE, text=True) as mpiexec,
        subprocess.Popen([sys.executable, "-I", str(WATCH), str(mpiexec.pid)], stderr=subprocess.PIPE, text=True) as watch,
    ):
        mpiexec.stdout.readline()
        code = mpiexec.wait(timeout=60)
        began = time.monotonic()
        said = watch.communicate(timeout=20)[1]
        return code, said, time.monotonic() - began


@pytest.mark.parametrize(("manners", "signal"), [("polite", 15), ("deaf", 9)])
def test_the_lost_node_is_named_and_the_job_ends(manners, signal):
    code, said, _after = run(manners, 60, "delta:0:60", "zeta:255:3")
    assert code == -signal
    assert said.startswith("mpiexec: the connection to zeta broke")
    assert "delta" not in said


def test_a_node_that_was_never_reached_ends_the_job_too():
    code, said, _after = run("polite", 60, "delta:0:60", "zeta:255:0")
    assert code == -15
    assert said.startswith("mpiexec: the connection to ")


def test_nodes_that_are_done_or_fail_in_their_own_way_are_left_to_mpiexec():
    code, said, after = run("polite", 6, "delta:0:1", "zeta:7:1")
    assert (code, said) == (0, "")
    assert after < 1.5  # at once and not at its next look


def test_it_does_not_stay_behind_when_there_is_nothing_to_watch():
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert subprocess.run([sys.executable, str(WATCH), str(gone.pid)], timeout=20, check=False).returncode == 0
