#!/usr/bin/python3
"""Write the status page of a LAN server: what it sees of itself and of the pair, once as HTML and once as JSON.

What is asked has a second to answer. What is not known by then is null in the JSON and `unknown` on the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import socket
import string
import struct
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import health
import kea_control

LIMIT = 1.0
LARGEST = 4 << 20
SKELETON = Path(__file__).with_name("status-page.html")

# All that a wrong, late or missing answer can raise, deep nesting included.
FAILURES = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error, subprocess.SubprocessError)


def known(question: Callable[[], Any]) -> Any:
    """Return the answer to a question; None for want of one."""
    try:
        return question()
    except FAILURES:
        return None


# Questions


def run(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, capture_output=True, check=True, text=True, errors="replace", timeout=LIMIT).stdout


def page(address: str) -> dict[str, Any]:
    """Return the status that an address serves."""
    request = f"GET /status.json HTTP/1.0\r\nHost: {address}\r\n\r\n"
    head, body = kea_control.converse(socket.AF_INET, (address, 80), request.encode(), LIMIT, LARGEST).split(b"\r\n\r\n", 1)
    if head.split()[1] != b"200":
        raise ValueError(head)
    return json.loads(body)


def serials(address: str, zones: Iterable[str]) -> dict[str, int | None]:
    """Ask a server for the serial numbers of all zones at once; None for a zone that it does not answer for."""
    found: dict[str, int | None] = dict.fromkeys(zones)
    numbers = random.SystemRandom().sample(range(1 << 16), len(found))
    asked = dict(zip(numbers, found, strict=True))
    deadline = time.monotonic() + LIMIT
    # Connected: what others send does not arrive.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        try:
            connection.connect((address, 53))
            for number, zone in asked.items():
                connection.send(soa_query(zone, number))
            while asked and (left := deadline - time.monotonic()) > 0:
                connection.settimeout(left)
                answer = connection.recv(4096)
                zone = asked.pop(int.from_bytes(answer[:2]), None)
                if zone is not None:
                    found[zone] = known(partial(soa_serial, answer, zone))
        except OSError:
            pass
    return found


# What was answered, taken apart


def soa_query(zone: str, number: int) -> bytes:
    """Return the question for a zone's SOA record (RFC 1035 section 4.1), which leaves it to the server to be its authority."""
    labels = [label.encode("ascii") for label in zone.rstrip(".").split(".")]
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!6H", number, 0, 1, 0, 0, 0) + name + struct.pack("!2H", 6, 1)


def soa_serial(message: bytes, zone: str) -> int:
    """Return the serial number in an authoritative answer about a zone."""
    number, flags, _, answers = struct.unpack_from("!4H", message)
    question = soa_query(zone, number)[12:]
    # QR and AA set, TC clear, no error
    if flags & 0x860F != 0x8400 or not answers or message[12 : 12 + len(question)].lower() != question.lower():
        raise ValueError("no authoritative answer")
    at = after_name(message, 12 + len(question))
    if struct.unpack_from("!H", message, at)[0] != 6:
        raise ValueError("no SOA record")
    # Type, class, time to live and length; then the names of the first server and of the mailbox.
    at = after_name(message, after_name(message, at + 10))
    return struct.unpack_from("!I", message, at)[0]


def after_name(message: bytes, at: int) -> int:
    """Return where a name ends, which may be in a pointer (RFC 1035 section 4.1.4)."""
    while length := message[at]:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1


def addresses(text: str) -> set[str]:
    """Return the addresses in the output of `ip -json address`."""
    return {entry["local"] for interface in json.loads(text) for entry in interface.get("addr_info", ())}


def leases(arguments: Mapping[str, Any]) -> int:
    """Return the number of leases in force, from Kea's answer to `statistic-get-all`: it does not grow with them, as their list does."""
    counts = [samples[0][0] for name, samples in arguments.items() if re.fullmatch(r"subnet\[\d+\]\.assigned-addresses", name)]
    if not counts:
        raise ValueError("no subnet")
    return sum(counts)


# The status


def gather(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Ask everything at the same time."""
    servers, vip, socket_path = settings["servers"], settings["vip"], settings["kea_socket"]
    questions: dict[str, Callable[[], Any]] = {
        "held": lambda: vip in addresses(run("ip", "-json", "-4", "address")),
        "answers": lambda: page(vip)["server"],
        "pair": lambda: kea_control.pair(kea_control.order("status-get", path=socket_path, limit=LIMIT)),
        "leases": lambda: leases(kea_control.order("statistic-get-all", path=socket_path, limit=LIMIT)),
        "clock": lambda: health.clock(run("chronyc", "-n", "-c", "tracking")),
        "uptime": lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        "load": lambda: list(os.getloadavg()),
        **{f"serials {name}": partial(serials, address, settings["zones"]) for name, address in servers.items()},
    }
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = dict(zip(questions, pool.map(known, questions.values()), strict=True))
    local, partner = answers["pair"] or (None, None)
    offset, stratum = answers["clock"] or (None, None)
    # A page that someone else serves there is not believed to be anyone's but a server's.
    answering = answers["answers"] if answers["answers"] in list(servers) else None
    seen = {name: answers[f"serials {name}"] or {} for name in servers}
    status = {
        "cluster": settings["cluster"],
        "server": settings["server"],
        "made": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "vip": {"address": vip, "held": answers["held"], "answered_by": answering},
        "dhcp": {"local": local, "partner": partner, "leases": answers["leases"]},
        "zones": {zone: {name: seen[name].get(zone) for name in servers} for zone in settings["zones"]},
        "clock": {"offset": offset, "stratum": stratum},
        "uptime": answers["uptime"],
        "load": answers["load"],
    }
    return {**status, "problems": list(problems(status))}


def problems(status: Mapping[str, Any]) -> Iterator[str]:
    """Say what is not as it should be."""
    server, vip, offset = status["server"], status["vip"], status["clock"]["offset"]
    if vip["answered_by"] is None:
        yield f"No server answers on {vip['address']}."
    elif vip["held"] is not None and vip["held"] != (vip["answered_by"] == server):
        yield f"{server} {'holds' if vip['held'] else 'does not hold'} {vip['address']}, and {vip['answered_by']} answers there."
    for which, state in (("here", status["dhcp"]["local"]), ("of the partner", status["dhcp"]["partner"])):
        if not health.pair_works(state):
            yield f"The DHCP server {which} is {'in an unknown state' if state is None else f'in the state {state}'}."
    for zone, servers in status["zones"].items():
        silent, differ = health.zone_faults(servers)
        yield from (f"{name} does not answer for the zone {zone}." for name in silent)
        if differ:
            yield f"The servers have different versions of the zone {zone}."
    if fault := health.clock_fault(offset):
        yield f"The clock {fault}."


# The page


def render(status: Mapping[str, Any], skeleton: str) -> str:
    """Return the page."""
    vip, dhcp, time_, load = status["vip"], status["dhcp"], status["clock"], status["load"]
    held = {True: "yes", False: "no"}.get(vip["held"])
    offset = None if time_["offset"] is None else f"{time_['offset'] * 1000:+.3f} ms"
    values = {
        "cluster": shown(status["cluster"]),
        "server": shown(status["server"]),
        "made": shown(status["made"]),
        "made_words": shown(status["made"].replace("T", " ").replace("Z", " UTC")),
        "verdict": verdict(status["problems"]),
        "vip_address": shown(vip["address"]),
        "vip_held": shown(held),
        "vip_answered_by": shown(vip["answered_by"]),
        "dhcp_local": shown(dhcp["local"]),
        "dhcp_partner": shown(dhcp["partner"]),
        "dhcp_leases": shown(dhcp["leases"]),
        "clock_offset": shown(offset),
        "clock_stratum": shown(time_["stratum"]),
        "uptime": shown(duration(status["uptime"])),
        "load": shown(None if load is None else ", ".join(f"{value:.2f}" for value in load)),
        "zones": table(status["zones"]),
    }
    return string.Template(skeleton).substitute(values, policy=policy(skeleton))


def policy(skeleton: str) -> str:
    """Return the page's Content-Security-Policy: its own style and script, which nothing goes into, and nothing else."""
    digests = {}
    for element in ("style", "script"):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", skeleton, re.DOTALL)
        digests[element] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    sources = "; ".join(f"{element}-src 'sha256-{digest}'" for element, digest in digests.items())
    return f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"


def shown(value: Any) -> str:
    """Return a value as it stands in HTML."""
    return '<span class="unknown">unknown</span>' if value is None else escape(str(value))


def duration(seconds: float | None) -> str | None:
    """Return a time span in its two largest units."""
    if seconds is None:
        return None
    minutes = int(seconds // 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    return f"{days} d {hours} h" if days else f"{hours} h {rest} min" if hours else f"{rest} min"


def verdict(found: Iterable[str]) -> str:
    """Return what is wrong as a list, or that nothing is."""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in found)
    return f'<ul class="verdict bad">{items}</ul>' if items else '<p class="verdict good">All is well.</p>'


def table(zones: Mapping[str, Mapping[str, int | None]]) -> str:
    """Return the serial numbers of the zones, a column for each server; a zone's name is above them, for a narrow screen."""
    names = list(next(iter(zones.values()), {}))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    bodies = []
    for zone, serial in zones.items():
        mark = ' class="differ"' if any(health.zone_faults(serial)) else ""
        cells = "".join(f"<td>{shown(serial[name])}</td>" for name in names)
        title = f'<tr><th scope="rowgroup" colspan="{len(names)}">{escape(zone)}</th></tr>'
        bodies.append(f"<tbody{mark}>\n{title}\n<tr>{cells}</tr>\n</tbody>")
    return "\n".join([f"<thead><tr>{head}</tr></thead>", *bodies])


def write(folder: Path, name: str, text: str) -> None:
    """Put a file in place as a whole: whoever reads it gets the old one or the new one."""
    new = folder / f".{name}.new"
    new.write_text(text, encoding="utf-8")
    new.replace(folder / name)


def main(arguments: list[str]) -> None:
    """Read the settings in the first argument; with `--check` behind them, do no more than that."""
    settings = tomllib.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    folder = Path(settings["pages"])
    if arguments[1:] != ["--check"]:
        status = gather(settings)
        write(folder, "index.html", render(status, SKELETON.read_text(encoding="utf-8")))
        write(folder, "status.json", json.dumps(status, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
