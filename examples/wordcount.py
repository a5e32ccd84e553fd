"""How often does each word occur in a text of SIZE lines?

The text is made up, always the same one. Think of it as a file: line `number` can be read without those before it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

from common.table import Work, main

WORDS = 10
"""Words of a line."""


def word(number: int) -> str:
    """Return a word of the language of the text: two syllables for each of its 4096 numbers."""
    return "".join("bdfgklmnprstvz"[part % 14] + "aeiou"[part // 14] for part in (number % 70, number // 70))


def line(number: int) -> str:
    """Return a line of the text: like in real ones, some words are frequent and most are rare."""
    state = number * 2654435761 + 1
    words = []
    for _ in range(WORDS):
        # A linear congruential generator (Numerical Recipes, "quick and dirty"); its high bits are the random ones.
        state = (state * 1664525 + 1013904223) % 2**32
        words.append(word((state >> 16) ** 2 >> 20))
    return " ".join(words).capitalize() + ".\n"


def text(first: int, last: int) -> str:
    """Return the lines from `first` up to, and without, `last`."""
    return "".join(map(line, range(first, last)))


def count(part: str, work: Work) -> Counter[str]:
    """Count the words of a part of the text."""
    with work:
        counts = Counter(re.findall("[a-z]+", part.lower()))
    work.items += counts.total()
    return counts


def standalone(size: int, work: Work) -> Counter[str]:
    """Read it all, and count."""
    return count(text(0, size), work)


def cluster(size: int, work: Work, world: Any) -> Counter[str]:
    """Rank 0 reads the text and sends each rank a part; it hears from all what they counted, and adds that up alone."""
    bounds = [size * rank // world.size for rank in range(world.size + 1)]
    parts = [text(first, last) for first, last in itertools.pairwise(bounds)] if world.rank == 0 else None
    counts = world.gather(count(world.scatter(parts), work))
    return sum(counts or [], Counter())


def efficient(size: int, work: Work, world: Any) -> Counter[str]:
    """Take the work to the data: each rank reads its own lines, so that the text never crosses the network.

    What was counted is added up in a tree (reduce), where half of the ranks add at the same time, then a quarter.
    """
    from mpi4py import MPI

    first, last = (size * rank // world.size for rank in (world.rank, world.rank + 1))
    return world.reduce(count(text(first, last), work), op=MPI.SUM)


def fnv(name: str) -> int:
    """Return a checksum of a word (FNV-1a, of Fowler, Noll and Vo, 32 bits)."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 % 2**32
    return value


def tell(counts: Counter[str]) -> str:
    """Return how many words there are, how many different ones, the most frequent one, and a checksum of all the counts."""
    top, often = min(counts.items(), key=lambda item: (-item[1], item[0]))
    total = sum(fnv(name) * often for name, often in counts.items()) % 2**32
    return f"words={counts.total()} distinct={len(counts)} top={top}:{often} checksum={total:08x}"


if __name__ == "__main__":
    main(50_000, {"standalone": standalone, "cluster": cluster, "efficient": efficient}, tell)
