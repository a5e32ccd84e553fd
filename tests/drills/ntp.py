"""The LAN keeps one time when nobody outside tells it."""

import contextlib
import time
from collections.abc import Iterator

from beowulf.drill import Figure, Lab, drill
from beowulf.status import clock_offset

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


@drill("23")
def no_time_from_outside(lab: Lab):
    """Both LAN servers lose every time source outside, then the one that leads goes, too; the clocks stay together"""
    clients = [name for name in lab.address if name not in lab.pair]
    with alone(lab):
        took = lab.until(lambda: len(leaders(lab, lab.pair)) == 1, POLLS, "one LAN server leads")
        leader = leaders(lab, lab.pair)[0]
        lab.run(leader, "systemctl stop chrony")
        try:
            left = lab.peer(leader)
            moved = lab.until(lambda: leaders(lab, [left]) == [left], POLLS, f"{left} leads")
            time.sleep(10)
            offsets = [offset(lab, name) for name in clients]
        finally:
            lab.run(leader, "systemctl start chrony")
    yield Figure("one server leads after", took, POLLS)
    yield Figure("the other one leads after", moved, POLLS)
    yield Figure("clients that lost the time", offsets.count(None), 0, unit="")
    yield Figure("largest offset", max((abs(one) for one in offsets if one is not None), default=0.0), 0.010)
