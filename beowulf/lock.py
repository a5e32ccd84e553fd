"""One at a time changes a cluster, from whichever controller.

There are two locks, and who changes the cluster holds both. One is here, for all who use this clone: it holds also while there is no
deployer yet, or none that answers. The other one is on the deployer, for all controllers, held by a program that lives as long as the
connection to it. It is a file of the user as whom controllers come in, in a folder that no service there enters, and root on the deployer
takes it as that user: nobody else can hold it or say who does, and nobody leaves a file there that shuts the others out.

Both are flock(2) on a file: whoever dies, or whose machine does, holds nothing, and the next one finds out at once. What stands in the
file says who it is.

A run is more than the process that took them: when that is killed, ansible-playbook goes on without it, and both locks are held until it
has ended, too (keep).

A task that calls another one holds them for both.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import getpass
import json
import os
import pwd
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from beowulf import cluster as clusters
from beowulf import ssh
from beowulf.errors import Refusal
from beowulf.process import environment

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

FILE = "~{user}/.local/state/beowulf/{cluster}.lock"
"""The lock on the deployer, as its shell reads it."""
TAKEN = 75
"""Exit code for a lock that somebody else holds (EX_TEMPFAIL, sysexits.h)."""
UNREACHABLE = 255
"""Exit code of ssh for a connection that does not come about."""
CONNECT = 2
"""Seconds for a deployer that does not answer: there is none yet, or it is lost, and then nobody else can change anything from it."""
WAIT = "import os, select, sys; select.select([os.pidfd_open(int(sys.argv[1]))], [], [])"
"""Program that ends when the process with a number does, reaped or not."""
_here: dict[Path, TextIO] = {}
"""The files that this process holds."""
_there: dict[Path, subprocess.Popen[str]] = {}
"""What holds the lock on a deployer for this process, by the file that it holds here."""


def holding(path: str, who: str) -> str:
    """Return the shell command that takes the lock, says `held`, and holds it until its standard input ends.

    The file is not emptied before the lock is taken: until then it names the other one.
    """
    inner = f"printf %s {shlex.quote(who)} >{path}; echo held; cat >/dev/null; : >{path}"
    take = f"flock --nonblock --conflict-exit-code {TAKEN} {path} sh -c {shlex.quote(inner)}"
    return f"umask 077; mkdir -p {Path(path).parent}; {take} || {{ code=$?; cat {path}; exit $code; }}"


def told(text: str) -> str:
    """Say who holds a lock, from what stands in its file."""
    try:
        found = {name: printable(str(value)) for name, value in json.loads(text).items()}
        return f"{found['user']}@{found['host']} runs {found['task']} since {found['since']} (process {found['process']})"
    except (ValueError, KeyError, AttributeError):
        return "somebody else changes it, who has not said who"


def printable(text: str) -> str:
    """Return what another machine said without what would steer a terminal, and no more than a line of it."""
    return "".join(sign for sign in text if sign.isprintable())[:200]


def keep(process: int) -> subprocess.Popen | None:
    """Start what holds the locks of this process until another one has ended, whatever becomes of this one.

    That one does not inherit them: with it whatever it starts would hold them, and some of that stays when it has ended.
    """
    # On the deployer a lock is held by who has the end of the pipe that keeps the connection.
    pipes = [child.stdin for child in _there.values() if child.stdin and not child.stdin.closed]
    held = [file.fileno() for file in (*_here.values(), *pipes)]
    if not held:
        return None
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    # In a session of its own: not ended by who ends all of a terminal's.
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", WAIT, str(process)], pass_fds=held, start_new_session=True, **quiet)


def acting_as(user: str) -> list[str]:
    """Return what a command of this machine begins with that a user is to run, without a question; nothing for oneself."""
    if pwd.getpwuid(os.geteuid()).pw_name == user:
        return []
    return ["runuser", "-u", user, "--"] if os.geteuid() == 0 else ["sudo", "-n", "-u", user]


def introduction(task: str) -> str:
    """Return what the one who holds a lock says of itself."""
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return json.dumps({"user": getpass.getuser(), "host": socket.gethostname(), "task": task, "since": since, "process": os.getpid()})


class Busy(Refusal):
    """Somebody else changes the cluster."""


def refused(cluster: Cluster, task: str, text: str) -> Busy:
    """Return the refusal of a task while another one has the lock."""
    return Busy(
        f"{task} {cluster.name}: refused, {told(text)}. Its lock goes with it and with the ansible-playbook that it has started: "
        "wait, or end them."
    )


@contextlib.contextmanager
def here(cluster: Cluster, task: str) -> Iterator[Path]:
    """Hold the lock of this clone while the body runs; give its file. Raises Busy when somebody else has it: nothing was touched."""
    path = cluster.state / "lock"
    if path in _here:
        yield path
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not emptied before it is held: until then it names the other one.
        file = path.open("a+", encoding="utf-8")
        if os.geteuid() == 0:
            # Root in the clone of another user leaves nothing there that would shut that one out.
            owner = path.parent.stat()
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
    except OSError as error:
        raise Refusal(f"{task} {cluster.name}: refused, the lock {path} cannot be opened: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise refused(cluster, task, file.read()) from None
        file.truncate(0)
        file.write(introduction(task))
        file.flush()
        _here[path] = file
        try:
            yield path
        finally:
            del _here[path]
            file.truncate(0)


@contextlib.contextmanager
def changing(cluster: Cluster, task: str) -> Iterator[None]:
    """Hold the lock of a cluster while the body runs. Raises Busy when somebody else has it: nothing was touched."""
    with here(cluster, task) as path:
        if path in _there and _there[path].poll() is None:
            yield
            return
        child = ask_deployer(cluster, task)
        before = _there.get(path)
        _there[path] = child
        try:
            yield
        finally:
            if before:
                _there[path] = before
            else:
                del _there[path]
            let_go(child)


def ask_deployer(cluster: Cluster, task: str) -> subprocess.Popen[str]:
    """Return what holds the lock on the deployer, or has ended because the deployer cannot be reached. Raises Refusal otherwise."""
    deployer = cluster.variables["rack_deployer"]
    user = str(cluster.variables["rack_ssh_user"])
    file = FILE.format(cluster=cluster.rack.cluster, user=user)
    command = holding(file, introduction(task))
    if clusters.is_own(deployer["address"]):
        way = [*acting_as(user), "sh", "-c", command]
    else:
        way = ssh.command(cluster, deployer["name"], command, options=(*ssh.FRESH, *ssh.connect_within(CONNECT)))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # Not ended by the Ctrl-C that ends the run: the lock outlives it.
    child = subprocess.Popen(way, text=True, errors="replace", env=environment(), start_new_session=True, **pipes)
    try:
        first = child.stdout.readline()
        if first.strip() == "held":
            return child
        rest, complaint = child.communicate(timeout=10)
    except BaseException:
        let_go(child)
        raise
    if child.returncode == TAKEN:
        raise refused(cluster, task, first + rest)
    if child.returncode != UNREACHABLE:
        said = printable((complaint.strip() or (first + rest).strip() or "nothing").splitlines()[-1])
        raise Refusal(
            f"{task} {cluster.name}: refused, {deployer['name']} answers and does not give the lock {file}: it ended with "
            f"{child.returncode} and said: {said}"
        )
    return child


def let_go(child: subprocess.Popen[str]) -> None:
    """End what holds the lock on the deployer."""
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
