"""How many primes are there up to SIZE?"""

from __future__ import annotations

import math
from typing import Any

from common.table import Work, main

SEGMENT = 1 << 17
"""Numbers that are sieved at once: few enough to stay in a processor's cache."""


def is_prime(number: int) -> bool:
    """Say whether a number is prime, by trial division: dearer, the larger the number."""
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def count(first: int, last: int, work: Work) -> int:
    """Return how many primes there are from `first` up to, and without, `last`."""
    with work:
        found = sum(map(is_prime, range(first, last)))
    work.items += last - first
    return found


def sieve(limit: int) -> list[int]:
    """Return the primes up to a limit, as Eratosthenes found them."""
    marks = bytearray([1]) * (limit + 1)
    for number in range(2, math.isqrt(limit) + 1):
        if marks[number]:
            marks[number * number :: number] = bytes(len(range(number * number, limit + 1, number)))
    return [number for number in range(2, limit + 1) if marks[number]]


def count_segment(first: int, last: int, small: list[int]) -> int:
    """Return how many primes there are from `first` up to, and without, `last`; `small` are those up to the root of it."""
    marks = bytearray([1]) * (last - first)
    for prime in small:
        begin = max(prime * prime, -(-first // prime) * prime) - first
        marks[begin::prime] = bytes(len(range(begin, last - first, prime)))
    return sum(marks)


def standalone(size: int, work: Work) -> int:
    """Try all the numbers, one after the other."""
    return count(2, size + 1, work)


def cluster(size: int, work: Work, world: Any) -> int:
    """An equal part for each rank. Equal in numbers, that is: the last rank has the dear ones, and the others wait for it."""
    numbers = max(0, size - 1)
    first, last = (2 + numbers * rank // world.size for rank in (world.rank, world.rank + 1))
    return sum(world.gather(count(first, last, work)) or [])


def efficient(size: int, work: Work, world: Any) -> int:
    """Cross out multiples instead of trying divisors, and deal the segments out like cards.

    So each rank gets cheap and dear ones alike. The few primes up to sqrt(SIZE) each rank finds by itself: that is
    cheaper than to be sent them. The only message is the sum.
    """
    from mpi4py import MPI

    found = 0
    with work:
        small = sieve(math.isqrt(size))
        for first in range(2 + world.rank * SEGMENT, size + 1, world.size * SEGMENT):
            last = min(first + SEGMENT, size + 1)
            found += count_segment(first, last, small)
            work.items += last - first
    return world.reduce(found, op=MPI.SUM)


if __name__ == "__main__":
    forms = {"standalone": standalone, "cluster": cluster, "efficient": efficient}
    main(300_000, forms, lambda found: f"primes={found}")
