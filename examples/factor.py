"""What are the factors of SIZE, a number made of two primes? The answer may come early: then the others should stop."""

from __future__ import annotations

import math
from array import array
from typing import Any

from common.table import Work, main

NONE = 2**63 - 1
"""No divisor found: larger than any."""
CHUNK = 4096
"""Pairs of divisors to try between two looks at what the others have found."""


def pairs(number: int) -> int:
    """Return how many pairs of divisors 6k - 1 and 6k + 1, k = 1, 2, ..., reach the root of the number; all primes from 5 on are there."""
    return math.isqrt(number) // 6 + 1


def search(number: int, first: int, last: int, work: Work) -> int:
    """Return the least divisor in some of the pairs, or NONE."""
    with work:
        for k in range(first, last):
            for divisor in (6 * k - 1, 6 * k + 1):
                if number % divisor == 0 and divisor < number:
                    work.items += k - first + 1
                    return divisor
    work.items += max(0, last - first)
    return NONE


def easy(number: int) -> int:
    """Return 2 or 3 if they divide the number, or NONE."""
    return next((divisor for divisor in (2, 3) if number % divisor == 0 and divisor < number), NONE)


def standalone(number: int, work: Work) -> tuple[int, int]:
    """Try one pair after the other, and stop at the first that divides."""
    return number, min(easy(number), search(number, 1, pairs(number) + 1, work))


def cluster(number: int, work: Work, world: Any) -> tuple[int, int]:
    """An equal part for each rank. All wait for those who search in vain, to the end of their parts."""
    from mpi4py import MPI

    first, last = (1 + pairs(number) * rank // world.size for rank in (world.rank, world.rank + 1))
    return number, world.reduce(min(easy(number), search(number, first, last, work)), op=MPI.MIN)


def efficient(number: int, work: Work, world: Any) -> tuple[int, int]:
    """All search from the small divisors upwards, a chunk each, and tell the others after each chunk what they found.

    Nobody waits for that answer (Iallreduce): it travels while the next chunk is searched. So the search ends one chunk
    after the divisor is found, whoever finds it.
    """
    from mpi4py import MPI

    if (least := easy(number)) != NONE:
        return number, least
    answer = array("q", [NONE])
    request = MPI.REQUEST_NULL
    for begin in range(1, pairs(number) + 1, CHUNK * world.size):
        first = begin + world.rank * CHUNK
        mine = array("q", [search(number, first, min(first + CHUNK, pairs(number) + 1), work)])
        request.Wait()
        if answer[0] != NONE:
            # Whatever is in this chunk is larger: all have searched everything below it.
            return number, answer[0]
        request = world.Iallreduce(mine, answer, op=MPI.MIN)
    request.Wait()
    return number, answer[0]


def tell(answer: tuple[int, int]) -> str:
    """Return the factors as text."""
    number, divisor = answer
    return f"factors={number}" if divisor == NONE else f"factors={divisor}*{number // divisor}"


if __name__ == "__main__":
    # 3000017 * 20000003: the divisor is in the middle of what there is to try.
    main(60_000_349_000_051, {"standalone": standalone, "cluster": cluster, "efficient": efficient}, tell)
