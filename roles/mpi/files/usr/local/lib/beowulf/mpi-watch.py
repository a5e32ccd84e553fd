#!/usr/bin/python3
"""End a parallel job whose node is gone and say which node it was: mpiexec itself would wait for it for ever.

Runs beside MPICH's mpiexec, whose process number is its argument, and ends with it. From mpiexec one ssh goes to each other node of the
job, where it starts the ranks. An ssh whose node does not answer any more ends with 255 (ssh(1), ssh_config(5) ServerAliveInterval);
that of a node whose ranks are done ends with something else.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

INTERVAL = 2.0
PATIENCE = 5.0
"""Seconds that mpiexec gets to end the ranks of the nodes that are left."""
LOST = 255
STARTER = "hydra_pmi_proxy"
"""What ssh starts on a node; the word before it is the name of the node."""


def connections(parent: int) -> Iterator[tuple[int, str, int]]:
    """Yield (process, state, exit code) of each ssh of a process. A code is there once it has ended (state Z; proc(5), stat)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            name, _bracket, rest = path.read_text(errors="replace").partition(" (")[2].rpartition(") ")
            fields = rest.split()
            if name == "ssh" and int(fields[1]) == parent:
                yield int(path.parent.name), fields[0], os.waitstatus_to_exitcode(int(fields[49]))


def node_of(process: int) -> str:
    """Return the node to which an ssh of mpiexec goes; nothing for one that has ended."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return ""
    return next((before for before, word in itertools.pairwise(words) if STARTER in word), "")


def lost(parent: int, nodes: dict[int, str]) -> list[str]:
    """Return the nodes that are lost; keep in `nodes` which process goes where, because one that has ended does not tell."""
    found = []
    for process, state, code in connections(parent):
        if name := node_of(process):
            nodes[process] = name
        elif state == "Z" and code == LOST:
            found.append(nodes.get(process, ""))
    return found


def watch(parent: int) -> None:
    """Wait for the end of mpiexec, and bring it about when a node is lost."""
    try:
        handle = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    nodes: dict[int, str] = {}
    while not (found := lost(parent, nodes)):
        if select.select([handle], [], [], INTERVAL)[0]:
            return
    names = " and ".join(sorted(filter(None, found))) or "a node (ssh said which)"
    print(f"mpiexec: the connection to {names} broke; the job cannot go on without it and has been ended", file=sys.stderr, flush=True)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
        if select.select([handle], [], [], PATIENCE)[0]:
            return


if __name__ == "__main__":
    watch(int(sys.argv[1]))
