"""A program that a thread starts, while another thread forks what lives on."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.plugin_utils import programs

PLUGINS = Path(programs.__file__).parents[1]
ON_THE_CONTROLLER = ["action", "cache", "callback", "filter", "inventory", "lookup", "plugin_utils", "strategy"]
STARTERS = {
    "subprocess.Popen",
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "os.popen",
    "os.system",
}

RACE = """
import os, signal, subprocess, sys, threading, time
from ansible_collections.beowulf.cluster.plugins.plugin_utils import programs

# Between the pipe and the program, half a second: as long as it takes on a loaded machine once in a while.
started, original = threading.Event(), subprocess._fork_exec
def slowly(*arguments):
    started.set()
    time.sleep(0.5)
    return original(*arguments)
subprocess._fork_exec = slowly

recorder = threading.Thread(target=lambda: {call}, daemon=True)
recorder.start()
started.wait()
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
recorder.join(10)
os.kill(child, signal.SIGKILL)
print("waits" if recorder.is_alive() else "done", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("call", "how_it_ends"),
    [("programs.run(['true'], 5)", "done"), ("subprocess.run(['true'])", "waits")],
    ids=["ours", "subprocess's own, which shows that the fork comes at the bad moment"],
)
def test_a_fork_at_the_wrong_moment_keeps_nobody_waiting(call, how_it_ends):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", RACE.format(call=call)], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.stdout.strip(), done.returncode) == (how_it_ends, 0), done.stderr


def test_how_a_program_ended_and_what_it_said_comes_back():
    done = programs.run(["sh", "-c", "echo here; echo there >&2; cat; exit 3"], 10)
    assert (done.returncode, done.stdout, done.stderr) == (3, "here\n", "there\n")


def test_a_program_that_is_not_done_in_time_is_killed(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        programs.run(["sh", "-c", f"echo $$ >{tmp_path}/number; exec sleep 60"], 1)
    assert not Path(f"/proc/{(tmp_path / 'number').read_text().strip()}").exists()


@pytest.mark.parametrize(
    "path", [one for kind in ON_THE_CONTROLLER for one in sorted((PLUGINS / kind).glob("*.py"))], ids=lambda one: one.stem
)
def test_no_plugin_starts_a_program_by_itself(path):
    """Ansible's own process, in which they run, forks for each task."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = {f"{one.value.id}.{one.attr}" for one in calls if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name)}
    assert (names & STARTERS) == ({"subprocess.Popen"} if path.stem == "programs" else set())
