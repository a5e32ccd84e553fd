from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from beowulf import process
from beowulf.errors import Refusal
from beowulf.playbook import options_for

ROOT = str(process.ROOT)


def test_a_limit_stays_one_argument_whatever_is_in_it(tmp_path):
    trap = tmp_path / "trap"
    (tmp_path / "play.yml").write_text("- hosts: all\n  gather_facts: false\n  tasks: []\n")
    options = options_for(f"compute;touch {trap};$(touch {trap})", f"a;touch {trap}", True)
    command = [process.tool("ansible-playbook"), "-i", "h1,", str(tmp_path / "play.yml"), *options]
    result = process.output(command, env=process.environment(ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal"))
    assert result.returncode != 0
    assert "no hosts to target" in result.stderr
    assert not trap.exists()


def test_exit_codes_come_through():
    assert process.run([sys.executable, "-c", "raise SystemExit(4)"]) == 4


def test_a_missing_program_and_a_silent_one_are_failures():
    assert process.output(["no-such-program"]).returncode == 127
    assert process.output(["sleep", "9"], timeout=0.2).returncode == 124


def test_who_says_too_much_is_not_read_to_the_end():
    for to in ("1", "2"):
        result = process.output(["sh", "-c", f"yes >&{to}"], limit=1000, timeout=20)
        assert (result.returncode, result.stdout) == (125, "")
        assert "more than 1000 bytes" in result.stderr
    assert process.output(["sh", "-c", "echo said; cat; echo told >&2; exit 3"], limit=1000, text="asked\n").stdout == "said\nasked\n"


@pytest.mark.parametrize(("told", "terminal"), [("INT", False), ("TERM", False), ("TERM", True)])
def test_an_interrupt_reaches_the_child_and_ends_without_traceback(tmp_path, told, terminal):
    """A terminal tells both of Ctrl-C; whoever is told alone, or told to end, passes it on."""
    child = (
        "import signal, sys, time, pathlib\n"
        f"signal.signal(signal.SIGINT, lambda *_: (pathlib.Path({str(tmp_path / 'told')!r}).touch(), sys.exit(1)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\ntime.sleep(30)\n"
    )
    parent = f"import sys; sys.path.insert(0, {ROOT!r})\nfrom beowulf.process import run\nsys.exit(run([sys.executable, '-c', {child!r}]))"
    # A shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-c", parent]
    _master, stdin = os.openpty() if terminal else (None, subprocess.DEVNULL)
    started = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=stdin, text=True)
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(started.pid, signal.Signals[f"SIG{told}"])
    _out, error = started.communicate(timeout=20)
    assert started.returncode == process.INTERRUPTED
    assert (tmp_path / "told").exists()
    assert "Traceback" not in error


def test_ansible_gets_an_encoding_it_accepts():
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from beowulf.process import environment; print(environment().get('LC_ALL'))"
    env = os.environ | {"LC_ALL": "en_US.ISO-8859-1", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    shown = subprocess.run([sys.executable, "-c", code], env=env | {"LC_ALL": "POSIX"}, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "C.UTF-8"


def folder_of(length, above):
    """Make a folder whose path has so many bytes."""
    path = above / ("x" * (length - len(os.fsencode(above)) - 1))
    path.mkdir(parents=True)
    return path


@pytest.fixture
def short():
    """A folder with a short path, which those of pytest have not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("who", "variable", "name"),
    [
        # As mitogen.unix.make_socket_path and Ansible's control path with the end that ssh gives it (mux.c) make them.
        ("Mitogen", "TMPDIR", lambda folder: tempfile.mktemp(prefix="mitogen_unix_", suffix=".sock", dir=folder)),
        ("SSH", "ANSIBLE_SSH_CONTROL_PATH_DIR", lambda folder: f"{folder}/0123456789.0123456789abcdef"),
    ],
)
def test_a_folder_is_refused_that_is_one_byte_too_long_for_a_socket(short, monkeypatch, who, variable, name):
    room = process.SOCKET - process.SOCKETS[who]
    folder = folder_of(room, short)
    monkeypatch.setenv(variable, str(folder))
    process.environment()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name(folder))
    longer = folder_of(room + 1, short)
    monkeypatch.setenv(variable, str(longer))
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(OSError, match="too long"):
        listener.bind(name(longer))
    with pytest.raises(Refusal, match=f"at most {room} leave room for the sockets that {who} makes there: set {variable}") as raised:
        process.environment()
    assert raised.value.code == 2


def test_a_folder_for_temporary_files_that_is_none_is_refused(tmp_path, operator):
    ended = operator("deploy", "--check", TMPDIR=str(tmp_path / "none"))
    assert ended.returncode == 2
    assert ended.stderr == f"TMPDIR={tmp_path}/none is no folder that this user may write to: make it, or unset TMPDIR.\n"


def test_a_deploy_with_a_long_folder_for_temporary_files_ends_with_a_sentence(tmp_path, operator):
    began = time.monotonic()
    ended = operator("deploy", "--check", TMPDIR=str(folder_of(200, tmp_path)))
    assert time.monotonic() - began < 30
    assert ended.returncode == 2
    assert "leave room for the sockets that Mitogen makes there: set TMPDIR to a shorter one.\n" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_program_reads_what_it_is_told_and_may_stop_to():
    assert process.output(["cat"], text="ä" * 100_000).stdout == "ä" * 100_000
    assert process.output(["head", "-c", "3"], text="abc" * 100_000).stdout == "abc"


def test_of_a_program_that_does_not_stop_nothing_is_kept():
    result = process.output(["yes"], limit=1000)
    assert (result.returncode, result.stdout, result.stderr) == (125, "", "yes: more than 1000 bytes")


def test_what_is_no_text_is_no_error():
    assert process.output(["printf", "\\377x"]).stdout == "\ufffdx"
