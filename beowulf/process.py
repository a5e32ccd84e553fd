"""Run other programs: argument lists, never a shell; Ctrl-C and SIGTERM end them in their own way."""

from __future__ import annotations

import locale
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from beowulf.errors import Interrupted, Refusal

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = Interrupted.code
PATIENCE = 15
SOCKET = 107
"""Bytes of the path of a socket (unix(7), sun_path)."""
SOCKETS = {"Mitogen": len("/mitogen_unix_12345678.sock"), "SSH": len("/0123456789.0123456789abcdef")}
"""Who makes sockets for Ansible on this machine, and the bytes of their names: one in the folder of temporary files, one in its own."""


def tool(name: str) -> str:
    """Return the path of a command that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def check_sockets() -> None:
    """Refuse folders in which those who make sockets cannot: they would say so in the middle of a run, and some wait for ever."""
    name = next((name for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), None)
    if name and not (os.path.isdir(os.environ[name]) and os.access(os.environ[name], os.W_OK | os.X_OK)):
        raise Refusal(f"{name}={os.environ[name]} is no folder that this user may write to: make it, or unset {name}.")
    control = os.environ.get("ANSIBLE_SSH_CONTROL_PATH_DIR") or "~/.ansible/cp"
    folders = {
        "Mitogen": (os.environ[name] if name else "/tmp", f"set {name} to a shorter one"),  # noqa: S108  # as tempfile has it
        "SSH": (os.path.expanduser(control), "set ANSIBLE_SSH_CONTROL_PATH_DIR to a shorter one"),
    }
    for who, (folder, how) in folders.items():
        if (length := len(os.fsencode(folder))) > (room := SOCKET - SOCKETS[who]):
            raise Refusal(
                f"The folder {folder} has {length} bytes, at most {room} leave room for the sockets that {who} makes there: {how}."
            )


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for Ansible and the like: this project's configuration and this Python's commands.

    Raises Refusal where they could not run: check_sockets.
    """
    check_sockets()
    env = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    if locale.getencoding().lower() not in ("utf-8", "utf8"):
        env["LC_ALL"] = "C.UTF-8"  # Ansible refuses any other encoding
    return env | extra


class Terminated(KeyboardInterrupt):
    """This process was told to end, by kill(1) say; unlike Ctrl-C nobody has told its child."""


@contextmanager
def told_to_end() -> Iterator[None]:
    """Have SIGTERM interrupt the body, which would end this process at once otherwise, and leave its child behind."""
    # Nobody else may say what is done about signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    beside: Callable[[int], subprocess.Popen | None] | None = None,
    **options: object,
) -> int:
    """Run a command in the project's folder and return its exit code; INTERRUPTED when it was ended by Ctrl-C or SIGTERM.

    `beside` starts what is to run as long as it does, given its process number.
    """
    companion = None
    with told_to_end():
        child = subprocess.Popen(list(command), cwd=ROOT, env=dict(env or environment()), **options)
        interrupted = False
        while True:
            try:
                if beside and not companion:
                    companion = beside(child.pid)
                code = child.wait(PATIENCE if interrupted else None)
                break
            except KeyboardInterrupt as reason:
                # A terminal tells the child, too; whoever signals this process alone does not.
                if not interrupted and (isinstance(reason, Terminated) or not sys.stdin.isatty()):
                    child.send_signal(signal.SIGINT)
                interrupted = True
            except subprocess.TimeoutExpired:
                child.kill()
    if companion:
        companion.kill()
        companion.wait()
    return INTERRUPTED if interrupted or code == -signal.SIGINT else code


def output(
    command: Sequence[str],
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    text: str | bytes = "",
    limit: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Run a command, with `text` as its input, and return what it said.

    A missing program, no end in time, and more than `limit` bytes are failures like any other: what is asked of a node that
    somebody else has taken over may never end. (The limit is the kernel's, for the files that the command writes.)
    """
    bounded = ["prlimit", f"--fsize={limit}", "--", *command] if limit else list(command)
    done = partial(subprocess.CompletedProcess, list(command))
    try:
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
            result = subprocess.run(
                bounded, cwd=cwd, env=dict(env or environment()), stdout=said, stderr=complained, timeout=timeout, check=False,
                input=text if isinstance(text, bytes) else text.encode(),
            )  # fmt: skip
            if limit and max(os.fstat(one.fileno()).st_size for one in (said, complained)) >= limit:
                return done(125, "", f"{command[0]}: more than {limit} bytes")
            shown, complaint = (_read(one) for one in (said, complained))
    except OSError as error:
        return done(127, "", f"{command[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return done(124, "", f"{command[0]}: no answer in {timeout:g} s")
    return done(result.returncode, shown, complaint)


def _read(file: BinaryIO) -> str:
    """Return all that was written to a file."""
    file.seek(0)
    return file.read().decode(errors="replace")
