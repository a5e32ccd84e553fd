"""The LAN keeps one time when nobody outside tells it."""

import contextlib
import re
import time
from collections.abc import Iterator

from beowulf.drill import drill
from beowulf.drill_lab import Lab, unnoticed
from beowulf.figures import Figure
from beowulf.health.readings import clock_offset

POLLS = 2 * 64
"""Seconds of two polls of a client at its longest interval (maxpoll 6)."""
LOCAL = "7F7F0101"
"""Reference identifier of a server that takes its own clock for the time (chronyc(1), tracking)."""


@contextlib.contextmanager
def alone(lab: Lab) -> Iterator[None]:
    """Let no time come from outside the LAN, whichever sources a server would ask."""
    subnet = lab.variables["rack_network"]["subnet"]
    rules = "add table inet drill\nadd chain inet drill output { type filter hook output priority -300; }\n"
    rules += f"add rule inet drill output ip daddr != {subnet} udp dport 123 drop\n"
    for node in lab.pair:
        lab.run(node, f"printf '{rules}' | nft --file -")
    try:
        yield
    finally:
        for node in lab.pair:
            lab.run(node, "nft delete table inet drill")


def offset(lab: Lab, node: str) -> float | None:
    """Return the seconds that the clock of a node is off, None while it is not synchronised."""
    return clock_offset(lab.run(node, "chronyc -n -c tracking"))


def leaders(lab: Lab, among: list[str]) -> list[str]:
    """Return the servers that follow nobody."""
    return [node for node in among if lab.run(node, "chronyc -n -c tracking").startswith(f"{LOCAL},")]


def told(lab: Lab, node: str, server: str) -> float | None:
    """Return the seconds that a node is off by what a server tells it when it asks once; None for no answer, or none that is in time."""
    shown = lab.run(node, f"chronyd -Q -t 5 'server {lab.address[server]} iburst maxsamples 1' 2>&1", check=False)
    found = re.search(r"System clock wrong by (-?[0-9.]+) seconds", shown)
    return float(found[1]) if found else None


def hears(lab: Lab, node: str, server: str, since: float) -> bool:
    """Say whether a node has had an answer of a server in the seconds since then."""
    rows = [row.split(",") for row in lab.run(node, "chronyc -n -c sources").splitlines()]
    # mode, state, address, stratum, poll, reachability, seconds since the last answer, …
    return any(row[2] == lab.address[server] and int(row[6]) < time.monotonic() - since for row in rows)


@drill()
def no_time_from_outside(lab: Lab):
    """Both LAN servers lose every time source outside, then the one that leads goes, too; all hear from the other, and agree"""
    clients = [name for name in lab.address if name not in lab.pair]
    with lab.watching(lab.asks_vip(), lab.looks_up()) as watch, alone(lab):
        took = lab.until(lambda: len(leaders(lab, lab.pair)) == 1, POLLS, "one LAN server leads")
        leader = leaders(lab, lab.pair)[0]
        left = lab.peer(leader)
        lab.run(leader, "systemctl stop chrony")
        stopped = time.monotonic()
        try:
            # It goes on with the time that it had from the leader until that is uncertain by 0.1 s: for hours (chrony.conf(5), orphan).
            heard = lab.until(lambda: all(hears(lab, name, left, stopped) for name in clients), POLLS + 10, f"everyone hears from {left}")
            answers = [told(lab, name, left) for name in clients]
            offsets = [offset(lab, name) for name in clients]
        finally:
            lab.run(leader, "systemctl start chrony")
    yield Figure("one server leads after", took, POLLS)
    yield Figure("everyone hears from the other one after", heard, POLLS)
    yield Figure("clients that it does not tell the time", answers.count(None), 0, unit="")
    yield Figure("clients that lost the time", offsets.count(None), 0, unit="")
    yield Figure("largest offset", max((abs(one) for one in answers + offsets if one is not None), default=0.0), 0.010)
    yield from unnoticed(watch)
