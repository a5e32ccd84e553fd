"""The Mandelbrot set, SIZE pixels wide, as mandelbrot.png in the current folder."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from common.table import Work, main

LIMIT = 255
"""Steps after which a point that has not escaped counts as one of the set: black."""
LEFT, TOP, WIDTH, HEIGHT = -2.25, -1.125, 3.0, 2.25


def height(size: int) -> int:
    """Return how many rows a picture has."""
    return max(1, size * 3 // 4)


def row(number: int, size: int, work: Work) -> bytes:
    """Return a row of pixels: after how many steps of z = z^2 + c each point c has escaped, or 0. Rows in the middle are dear."""
    pixels = bytearray(size)
    with work:
        cy = TOP + HEIGHT * (number + 0.5) / height(size)
        for column in range(size):
            cx = LEFT + WIDTH * (column + 0.5) / size
            x = y = 0.0
            for step in range(1, LIMIT + 1):
                xx, yy = x * x, y * y
                if xx + yy > 4:
                    pixels[column] = step
                    break
                y = 2 * x * y + cy
                x = xx - yy + cx
    work.items += 1
    return bytes(pixels)


def standalone(size: int, work: Work) -> list[bytes]:
    """Compute row by row."""
    return [row(number, size, work) for number in range(height(size))]


def cluster(size: int, work: Work, world: Any) -> list[bytes]:
    """Each rank computes a band of the picture: whoever has the middle has almost all of the work."""
    rows = height(size)
    band = [row(number, size, work) for number in range(rows * world.rank // world.size, rows * (world.rank + 1) // world.size)]
    return [one for band in world.gather(band) or [] for one in band]


def efficient(size: int, work: Work, world: Any) -> list[bytes]:
    """Rank 0 hands out row after row to whoever is done with the last one.

    So a fast node does more of them than a slow one, and all are done at the same time. It costs a message for each row and
    rank 0, which computes nothing: worth it as soon as there are a few ranks.
    """
    from mpi4py import MPI

    if world.size == 1:
        return standalone(size, work)
    rows = height(size)
    if world.rank:
        done = None
        while (number := world.sendrecv(done, dest=0, source=0)) is not None:
            done = (number, row(number, size, work))
        return []
    picture = [b""] * rows
    status = MPI.Status()
    # Each rank asks once before its first row and once after each row: as many questions as answers.
    for number in range(rows + world.size - 1):
        done = world.recv(source=MPI.ANY_SOURCE, status=status)
        world.send(number if number < rows else None, dest=status.source)
        if done:
            picture[done[0]] = done[1]
    return picture


def png(rows: list[bytes]) -> bytes:
    """Return rows of grey pixels as a PNG file (ISO/IEC 15948): a signature, and chunks of length, type, data and CRC."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    # 8 bits, colour type 0 (grey); before each row the number of its filter, 0 for none.
    header = struct.pack("!2I5B", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + one for one in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tell(rows: list[bytes]) -> str:
    """Write the picture; return its size and the checksum of its pixels."""
    with open("mandelbrot.png", "wb") as file:
        file.write(png(rows))
    return f"mandelbrot={len(rows[0])}x{len(rows)} adler32={zlib.adler32(b''.join(rows)):08x}"


if __name__ == "__main__":
    main(320, {"standalone": standalone, "cluster": cluster, "efficient": efficient}, tell)
