"""Measure the nodes and the ways between them: the slow board, the bad cable.

Runs on the nodes, one rank on each, with mpi4py and numpy, and prints JSON; what it measured is judged here, too, because what
looks bad is measured again before it is called bad.
"""

from __future__ import annotations

import itertools
import json
import socket
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any

FACTOR = 3
"""So many times worse than the median is an outlier."""
ATTEMPTS = 5
"""How often a pair or a node is measured, as long as it is an outlier; its best figure counts."""
SMALL, SMALL_ROUNDS = 8, 100
LARGE, LARGE_ROUNDS = 1 << 20, 5
"""Bytes of a message, and how often it goes there and back; a large one more often on a fast way, until LONG_ENOUGH seconds."""
LONG_ENOUGH = 0.1
MATRIX = 384

Values = dict[str, float]
"""A figure for each pair of nodes ("gamma delta"), or for each node."""


def middle(values: Iterable[float], high_is_bad: bool) -> float:
    """Return the median of figures, of two in the middle the better one.

    Of four nodes a bad one spoils three of the six pairs: between the good half and the bad half, the good one is what is normal.
    (Of three nodes it spoils two of three pairs, and no figure of them can say who is to blame.)
    """
    ordered = sorted(values, reverse=not high_is_bad)
    return ordered[(len(ordered) - 1) // 2]


def outliers(values: Mapping[str, float], high_is_bad: bool) -> list[str]:
    """Return the names whose values are worse than the median by more than FACTOR."""
    if not values:
        return []
    normal = middle(values.values(), high_is_bad)
    return [name for name, value in values.items() if (value > FACTOR * normal if high_is_bad else value * FACTOR < normal)]


def better(old: float | None, new: float, high_is_bad: bool) -> float:
    """Return the better one of two figures, if there are two."""
    if old is None:
        return new
    return min(old, new) if high_is_bad else max(old, new)


def quietly(request: Any) -> None:
    """Wait for a request without using the processor: MPICH itself asks in a loop, and nodes may share a processor."""
    while not request.Test():
        time.sleep(0.001)


def there_and_back(world: Any, other: int, size: int, rounds: int) -> list[float]:
    """Send a message to another rank and back, several times; return the seconds of each. The lower rank begins."""
    data = bytearray(size)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        if world.rank < other:
            world.Send(data, dest=other)
            world.Recv(data, source=other)
        else:
            world.Recv(data, source=other)
            world.Send(data, dest=other)
        seconds.append(time.perf_counter() - began)
    return seconds


def pair(world: Any, other: int) -> tuple[float, float]:
    """Return the latency in microseconds and the bandwidth in MB/s between this rank and another."""
    there_and_back(world, other, SMALL, 3)  # the first message opens the connection
    small = statistics.median(there_and_back(world, other, SMALL, SMALL_ROUNDS))
    once = statistics.median(there_and_back(world, other, LARGE, 3))
    rounds = max(LARGE_ROUNDS, min(1000, int(LONG_ENOUGH / once)))
    rounds = max(rounds, world.sendrecv(rounds, dest=other, source=other))  # both have their own clocks
    # The sum and not the median: what is lost on the way and sent again is what a bad cable is known by.
    large = sum(there_and_back(world, other, LARGE, rounds))
    return small / 2 * 1e6, 2 * LARGE * rounds / large / 1e6


def gigaflops() -> float:
    """Return how many billion operations this node does in a second: the best of three products of matrices."""
    import numpy

    numbers = numpy.random.default_rng(1).random((MATRIX, MATRIX))
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        numbers @ numbers
        best = max(best, 2 * MATRIX**3 / (time.perf_counter() - began) / 1e9)
    return best


def allreduce(world: Any) -> dict[str, Any]:
    """Add up a megabyte of numbers over all ranks; say whether the sum is right on all of them, and how long it took."""
    import numpy

    total = numpy.empty(LARGE // 8)
    world.Barrier()
    began = time.perf_counter()
    world.Allreduce(numpy.full(LARGE // 8, world.rank + 1.0), total)
    seconds = time.perf_counter() - began
    right = bool((total == world.size * (world.size + 1) / 2).all())
    return {"right": all(world.allgather(right)), "ms": max(world.allgather(seconds)) * 1e3}


def measure(world: Any) -> dict[str, Any]:
    """Measure all nodes and all pairs, one after the other: two pairs at the same time would measure each other."""
    names = world.allgather(socket.gethostname())
    latency: Values = {}
    bandwidth: Values = {}
    speed: Values = {}
    pairs = {f"{names[a]} {names[b]}": (a, b) for a, b in itertools.combinations(range(world.size), 2)}
    todo_pairs, todo_nodes = list(pairs), list(names)
    for _ in range(ATTEMPTS):
        mine: list[tuple[str, str, float, bool]] = []
        for key in todo_pairs:
            if world.rank in pairs[key]:
                a, b = pairs[key]
                micros, rate = pair(world, b if world.rank == a else a)
                if world.rank == a:
                    mine += [("latency", key, micros, True), ("bandwidth", key, rate, False)]
            quietly(world.Ibarrier())
        for name in todo_nodes:
            if names[world.rank] == name:
                mine.append(("speed", name, gigaflops(), False))
            quietly(world.Ibarrier())
        figures = {"latency": latency, "bandwidth": bandwidth, "speed": speed}
        for kind, key, value, high_is_bad in itertools.chain.from_iterable(world.allgather(mine)):
            figures[kind][key] = better(figures[kind].get(key), value, high_is_bad)
        todo_pairs = sorted({*outliers(latency, True), *outliers(bandwidth, False)})
        todo_nodes = outliers(speed, False)
        if not todo_pairs and not todo_nodes:
            break
    return {"nodes": names, "latency_us": latency, "bandwidth_mb_s": bandwidth, "gflops": speed, "allreduce": allreduce(world)}


def main() -> None:
    """Measure; rank 0 prints what came of it."""
    from mpi4py import MPI

    found = measure(MPI.COMM_WORLD)
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
