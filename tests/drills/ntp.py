"""The LAN keeps one time when nobody outside tells it."""

import time

from beowulf.drill import Figure, Lab, drill

POLLS = 2 * 64
"""Seconds of two polls of a client at its longest interval (maxpoll 6)."""


@drill("23")
def no_time_from_outside(lab: Lab):
    """Both LAN servers lose every time source outside; the clocks stay together"""
    sources = lab.variables["rack_network"]["ntp"]
    for node in lab.pair:
        lab.run(node, "chronyc offline " + " ; chronyc offline ".join(sources), check=False)
    clients = [name for name in lab.address if name not in lab.pair]
    try:
        began = time.monotonic()
        lab.until(lambda: all(offset(lab, name) is not None for name in clients), POLLS, "all clients are synchronised")
        took = time.monotonic() - began
        time.sleep(10)
        offsets = [offset(lab, name) for name in clients]
    finally:
        for node in lab.pair:
            lab.run(node, "chronyc online", check=False)
    yield Figure("synchronised after", took, POLLS)
    yield Figure("clients that lost the time", offsets.count(None), 0, unit="")
    yield Figure("largest offset", max((abs(one) for one in offsets if one is not None), default=0.0), 0.010)


def offset(lab: Lab, node: str) -> float | None:
    """Return the seconds that the clock of a node is off, None while it is not synchronised."""
    from beowulf.status import clock_offset

    return clock_offset(lab.run(node, "chronyc -n -c tracking"))
