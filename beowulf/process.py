"""Run other programs: argument lists, never a shell; Ctrl-C and SIGTERM end them in their own way."""

from __future__ import annotations

import locale
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130
PATIENCE = 15


def tool(name: str) -> str:
    """Return the path of a command that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for Ansible and the like: this project's configuration and this Python's commands."""
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
    said: str | bytes = "",
    most: int = 64 << 20,
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said; a missing program or no end in time is a failure like any other.

    `said` is what it reads. Of one that says more than `most` bytes, to which others may have made it, nothing is kept.
    """
    try:
        child = subprocess.Popen(
            list(command), cwd=cwd, env=dict(env or environment()), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        return subprocess.CompletedProcess(list(command), 127, "", f"{command[0]}: {error.strerror}")
    with child:
        try:
            heard = converse(child, said if isinstance(said, bytes) else said.encode(), timeout, most)
        except (TimeoutError, OverflowError) as error:
            child.kill()
            return subprocess.CompletedProcess(list(command), 124, "", f"{command[0]}: {error}")
    return subprocess.CompletedProcess(list(command), child.returncode, *(one.decode(errors="replace") for one in heard))


def converse(child: subprocess.Popen[bytes], said: bytes, timeout: float, most: int) -> list[bytes]:
    """Tell a program something, and return all that it writes to its two outputs, until it has ended.

    Raises TimeoutError when it has not ended in `timeout` seconds, and OverflowError when it writes more than `most` bytes.
    """
    deadline = time.monotonic() + timeout
    heard: dict[IO[bytes], bytearray] = {child.stdout: bytearray(), child.stderr: bytearray()}
    rest = memoryview(said)
    with selectors.DefaultSelector() as pipes:
        for pipe in heard:
            pipes.register(pipe, selectors.EVENT_READ)
        pipes.register(child.stdin, selectors.EVENT_WRITE)
        while pipes.get_map():
            ready = pipes.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer in {timeout:g} s")
            for key, _events in ready:
                if key.fileobj is child.stdin:
                    with suppress(BrokenPipeError):  # it has heard enough
                        rest = rest[os.write(key.fd, rest[: select.PIPE_BUF]) :]
                        if rest:
                            continue
                    pipes.unregister(child.stdin)
                    child.stdin.close()
                    continue
                piece = os.read(key.fd, 65536)
                heard[key.fileobj] += piece
                if not piece:
                    pipes.unregister(key.fileobj)
                if sum(map(len, heard.values())) > most:
                    raise OverflowError(f"it says more than {most} bytes")
    try:
        child.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"no end in {timeout:g} s") from None
    return [bytes(one) for one in heard.values()]


def plain(text: str) -> str:
    """Return what a node or a stranger wrote without control characters (C0, C1) and without those that turn the direction of writing."""
    return "".join(one for one in text if one == "\t" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
