"""Pi is the area under 4 / (1 + x^2) from 0 to 1. SIZE is the number of strips it is cut into.

`diff` the three forms in your head: the standalone one is the serial program, the others say what MPI makes of it.
"""

from __future__ import annotations

import math
from typing import Any

from common.table import Work, main


def height(x: float) -> float:
    """Return the height of the curve."""
    return 4 / (1 + x * x)


def strips(first: int, last: int, size: int, work: Work) -> float:
    """Return the area of some of the strips, each as high as the curve in its middle. The error shrinks with 1 / SIZE^2."""
    with work:
        area = sum(height((i + 0.5) / size) for i in range(first, last)) / size
    work.items += last - first
    return area


def standalone(size: int, work: Work) -> float:
    """All the strips, one after the other."""
    return strips(0, size, size, work)


def cluster(size: int, work: Work, world: Any) -> float:
    """An equal part for each rank; rank 0 hears from one rank after the other."""
    area = strips(size * world.rank // world.size, size * (world.rank + 1) // world.size, size, work)
    if world.rank:
        world.send(area, dest=0)
    else:
        for rank in range(1, world.size):
            area += world.recv(source=rank)
    return area


def efficient(size: int, work: Work, world: Any) -> float:
    """A better rule before more processors: parabolas (Simpson) instead of flat tops.

    Their error shrinks with the fourth power of their number at least, so that sqrt(SIZE) of them are as good as SIZE strips.
    And the parts are added up in a tree (reduce), which takes log2(ranks) steps instead of one for each rank.
    """
    from mpi4py import MPI

    size = math.isqrt(size) + 1
    with work:
        mine = range(size * world.rank // world.size, size * (world.rank + 1) // world.size)
        area = sum(height(i / size) + 4 * height((i + 0.5) / size) + height((i + 1) / size) for i in mine) / (6 * size)
    work.items += 3 * len(mine)
    return world.reduce(area, op=MPI.SUM)


if __name__ == "__main__":
    forms = {"standalone": standalone, "cluster": cluster, "efficient": efficient}
    main(1_000_000, forms, lambda area: f"pi={area:.11f}")
