"""One at a time changes a cluster, from whichever controller.

The lock is on the deployer, held by a program that lives as long as the connection to it: whoever dies, or whose machine does,
holds nothing. It is flock(2) on a file, so that a controller finds out at once; what stands in the file says who it is.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from beowulf.errors import Refusal
from beowulf.process import environment

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

FILE = "/run/lock/beowulf-{cluster}"
TAKEN = 75
"""Exit code for a lock that somebody else holds (EX_TEMPFAIL, sysexits.h)."""
UNREACHABLE = 255
"""Exit code of ssh for a connection that does not come about."""
CONNECT = 2
"""Seconds for a deployer that does not answer: there is none yet, or it is lost, and then nobody else can change anything from it."""


def holding(path: str, who: str) -> str:
    """Return the shell command that takes the lock, says `held`, and holds it until its standard input ends.

    The file is not emptied before the lock is taken: until then it names the other one.
    """
    inner = f"printf %s {shlex.quote(who)} >{path}; echo held; cat >/dev/null; : >{path}"
    take = f"flock --nonblock --conflict-exit-code {TAKEN} {path} sh -c {shlex.quote(inner)}"
    return f"umask 0; touch {path} 2>/dev/null; {take} || {{ code=$?; cat {path}; exit $code; }}"


def told(text: str) -> str:
    """Say who holds a lock, from what stands in its file."""
    try:
        found = json.loads(text)
        return f"{found['user']}@{found['host']} runs {found['task']} since {found['since']} (process {found['process']})"
    except (ValueError, KeyError, TypeError):
        return "somebody else changes it, who has not said who"


@contextlib.contextmanager
def changing(cluster: Cluster, task: str) -> Iterator[None]:
    """Hold the lock of a cluster while the body runs. Raises Refusal when somebody else has it: nothing was touched."""
    from beowulf.cluster import is_own

    deployer = cluster.variables["rack_deployer"]
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = json.dumps({"user": getpass.getuser(), "host": socket.gethostname(), "task": task, "since": since, "process": os.getpid()})
    command = holding(FILE.format(cluster=cluster.rack.cluster), who)
    if is_own(deployer["address"]):
        way = ["sh", "-c", command]
    else:
        way = [*cluster.ssh(deployer["name"])]
        way[1:1] = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ControlPath=none", "-o", f"ConnectTimeout={CONNECT}"]
        way += [command]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # Not ended by the Ctrl-C that ends the run: the lock outlives it.
    child = subprocess.Popen(way, text=True, env=environment(), start_new_session=True, **pipes)
    try:
        first = child.stdout.readline()
        if first.strip() != "held":
            rest, _ = child.communicate(timeout=10)
            if child.returncode == TAKEN:
                raise Refusal(
                    f"{task} {cluster.name}: refused, {told(first + rest)}. A lock goes with whoever dies: wait, or end that run."
                )
        yield
    finally:
        with contextlib.suppress(OSError):
            child.stdin.close()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
