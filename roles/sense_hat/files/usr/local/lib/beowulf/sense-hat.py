"""Show the state of the nodes on the LEDs of a Sense HAT: sense-hat.py [--framebuffer FILE] COMMAND...

COMMAND prints the state as JSON, as `./bootstrap status --json` does. Every node has a field of the picture, in the order of the rack:
green is up, yellow is up with something wrong, red is down. All LEDs are blue when the state cannot be found out. Ends with 1 then, and
with 2 on a machine without such LEDs.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SIZE = 8
NAME = "RPi-Sense FB"
"""What the kernel's driver rpisense-fb calls its framebuffer."""
LIMIT = 75
# Not brighter than a lamp on a desk should be: red, green, blue from 0 to 255.
GREEN, YELLOW, RED, BLUE, DARK = (0, 96, 0), (112, 72, 0), (144, 0, 0), (0, 0, 96), (0, 0, 0)
Colour = tuple[int, int, int]


def framebuffer(graphics: Path = Path("/sys/class/graphics"), devices: Path = Path("/dev")) -> Path | None:
    """Return the device of the LEDs; None on a machine that has none."""
    for name in sorted(graphics.glob("fb*/name")):
        if name.read_text(encoding="ascii", errors="replace").strip() == NAME:
            return devices / name.parent.name
    return None


def colours(state: Mapping[str, Any]) -> list[Colour]:
    """Return the colour of each node; a problem that names no node is one of all servers of the LAN."""
    nodes, problems = state["nodes"], state["problems"]
    named = {name: any(re.search(rf"\b{re.escape(name)}\b", problem) for problem in problems) for name in nodes}
    shared = any(not any(re.search(rf"\b{re.escape(name)}\b", problem) for name in nodes) for problem in problems)
    servers = state.get("lanservices", ())
    return [RED if not node["up"] else YELLOW if named[name] or (shared and name in servers) else GREEN for name, node in nodes.items()]


def worst(found: Iterable[Colour]) -> Colour:
    """Return the colour of several nodes that share a field."""
    return min(found, key=(RED, YELLOW, GREEN).index)


def picture(found: Sequence[Colour]) -> list[Colour]:
    """Lay the nodes out in square fields as large as they can be, from the top left; more than 64 nodes share fields."""
    side = next((side for side in (8, 4, 2, 1) if (SIZE // side) ** 2 >= len(found)), 1)
    row = SIZE // side
    share = -(-len(found) // SIZE**2) or 1
    fields = [worst(found[at : at + share]) for at in range(0, len(found), share)]
    fields += [DARK] * (row**2 - len(fields))
    return [fields[y // side * row + x // side] for y in range(SIZE) for x in range(SIZE)]


def rgb565(colour: Colour) -> int:
    """Return the 16 bits of a pixel: five for red, six for green, five for blue."""
    red, green, blue = colour
    return red >> 3 << 11 | green >> 2 << 5 | blue >> 3


def encode(pixels: Iterable[Colour]) -> bytes:
    """Return what the framebuffer takes, row by row, in the byte order of the board."""
    return b"".join(struct.pack("<H", rgb565(pixel)) for pixel in pixels)


def ask(command: Sequence[str]) -> list[Colour]:
    """Return the picture of what the command says; raise OSError, ValueError or LookupError when it says nothing."""
    try:
        # It ends with 1 when something is wrong, and says what.
        said = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False).stdout
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer in {LIMIT} s") from error
    return picture(colours(json.loads(said)))


def main(arguments: list[str]) -> int:
    """Run as a command."""
    place: Path | None = None
    if arguments[:1] == ["--framebuffer"] and len(arguments) > 1:
        place, arguments = Path(arguments[1]), arguments[2:]
    if not arguments:
        print("usage: sense-hat.py [--framebuffer FILE] COMMAND...", file=sys.stderr)
        return 2
    place = place or framebuffer()
    if place is None:
        print(f"There is no framebuffer {NAME!r}.", file=sys.stderr)
        return 2
    try:
        pixels, code = ask(arguments), 0
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"The state cannot be found out: {error}", file=sys.stderr)
        pixels, code = [BLUE] * SIZE**2, 1
    try:
        with place.open("r+b", buffering=0) as device:
            device.write(encode(pixels))
    except OSError as error:
        print(f"{place}: {error.strerror}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
