"""What all the examples do alike: read FORM and SIZE, print the result in one line, and tell who did how much of the work."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

FORMS = ("standalone", "cluster", "efficient")


class Work:
    """What one rank has done. `with work:` counts the processor's seconds in it, `work.items` is for the program to add to.

    Not the seconds on the clock: where ranks outnumber processors these would count the others' work, too.
    """

    def __init__(self) -> None:
        self.items = 0
        self.seconds = 0.0
        self.since = 0.0

    def __enter__(self) -> None:
        self.since = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.process_time() - self.since


def arguments(default: int) -> tuple[str, int]:
    """Return FORM and SIZE from the command line; end with code 2 if they are not there or no good."""
    words = sys.argv[1:]
    complaint = ""
    if not 1 <= len(words) <= 2 or words[0] not in FORMS or not all(word.isdecimal() and int(word) > 0 for word in words[1:]):
        complaint = f"usage: {'|'.join(FORMS)} [SIZE, default {default}]"
    # MPI would tell, but alone there is none: these are the variables of MPICH's mpiexec.
    elif words[0] == "standalone" and os.environ.get("PMI_SIZE", "1") != "1":
        complaint = "standalone is one process: without mpiexec, or with -n 1"
    if complaint:
        if os.environ.get("PMI_RANK", "0") == "0":
            print(complaint, file=sys.stderr)
        sys.exit(2)
    return words[0], int(words[1]) if words[1:] else default


def table(rows: list[tuple[str, float, int]]) -> list[str]:
    """Return the lines of the table: a head, one line for each node. A row is host, seconds and items of a rank."""
    hosts = list(dict.fromkeys(host for host, _seconds, _items in rows))
    everything = sum(items for _host, _seconds, items in rows) or 1
    lines = [f"{'node':<16}{'ranks':>6}{'seconds':>10}{'items':>14}{'share':>9}"]
    for host in hosts:
        own = [row for row in rows if row[0] == host]
        items = sum(row[2] for row in own)
        lines.append(f"{host:<16}{len(own):>6}{sum(row[1] for row in own):>10.3f}{items:>14}{100 * items / everything:>7.1f} %")
    return lines


def main(default: int, forms: dict[str, Callable[..., Any]], tell: Callable[[Any], str]) -> None:
    """Run the form that the command line names, and print what came of it.

    A form is called with the size, its Work and, unless it is the standalone one, all ranks; what it returns on rank 0 is
    the answer, and `tell` makes the text of it that stands after "result:".
    """
    form, size = arguments(default)
    work = Work()
    world = None
    if form == "standalone":
        began = time.perf_counter()
        answer = forms[form](size, work)
    else:
        # Only here: a program that runs alone needs no MPI.
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        world.Barrier()
        began = time.perf_counter()
        answer = forms[form](size, work, world)
    wall = time.perf_counter() - began
    row = (socket.gethostname(), work.seconds, work.items)
    rows = world.gather(row) if world else [row]
    if rows:
        busy = sum(seconds for _host, seconds, _items in rows) / (len(rows) * wall)
        print(f"result: {tell(answer)}", *table(rows), sep="\n")
        print(f"{form}: {len(rows)} ranks, {wall:.3f} s on the clock, at work {100 * busy:.0f} % of it", flush=True)
