#!/usr/bin/python3
"""Let this name server have every zone that it is to have, the same as the others: dns-zones [--check [ZONE...]] [--files]

A primary that cannot load a zone, as its file or its journal is missing, cut off or something else, serves none, and BIND leaves it at
that. Here it begins again from the server with the newest one, with a serial that is newer than all; a primary that is behind its
secondaries takes the names that they have besides. A secondary asks for what it missed; broken files it replaces by itself.

Which zones, keys and servers there are is read from BIND's configuration. What was done is told, a line each. With --check it is only told,
also of the zones that are named and not in the configuration of a primary yet; with --files only files are written, before BIND reads them.
Ends with 1 when a zone is missing here or older than elsewhere afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = "127.0.0.1"
KEYS = Path("/etc/bind")
BEGIN = Path("/var/lib/bind/dynamic.begin")
"""What a zone begins with that nobody has."""
PATIENCE = 30.0
"""Seconds for the other servers to start, before a zone begins again without them."""
SETTLED = 10.0
"""Seconds for a change to reach them: a NOTIFY and a transfer in the LAN."""
UPDATE_KEY = re.compile(r'grant "([^"]+)"')
MODULUS = 2**32

Record = tuple[str, str, str, str]
"""Name, time to live, type and data, as BIND's tools write them. Of a zone the SOA record is the first one."""


@dataclass
class Zone:
    """A zone that the servers copy."""

    name: str
    file: Path
    primary: bool
    update_key: str = ""
    """Of a zone that others write."""
    serials: dict[str, int] = field(default_factory=dict)
    """What the servers answer that have it: {address: serial}."""

    @property
    def journal(self) -> Path:
        """Return where BIND notes what has changed since it wrote the file."""
        return self.file.with_name(f"{self.file.name}.jnl")


def ahead(one: int, other: int) -> bool:
    """Say whether a serial is newer than another (RFC 1982 section 3.2)."""
    return 0 < (one - other) % MODULUS < MODULUS // 2


def following(serials: list[int], now: int) -> int:
    """Return a serial that is newer than all of these: the seconds since 1970, which BIND takes here, too, or the next number."""
    newest = None
    for one in serials:
        newest = one if newest is None or ahead(one, newest) else newest
    return now if newest is None or ahead(now, newest) else (newest + 1) % MODULUS or 1


def serial_of(records: list[Record]) -> int:
    """Return the serial of a zone."""
    return int(records[0][3].split()[2])


def renumbered(records: list[Record], serial: int) -> list[Record]:
    """Return a zone with another serial."""
    name, ttl, kind, data = records[0]
    server, mail, _serial, *times = data.split()
    return [(name, ttl, kind, " ".join([server, mail, str(serial), *times])), *records[1:]]


def parse_zones(text: str) -> dict[str, list[Record]]:
    """Read transfers as dig writes them: {zone: records}. Each begins and ends with the SOA record; what does not is left out."""
    found, records = {}, []
    for line in text.splitlines():
        words = line.split(None, 4)
        if len(words) < 5 or words[2] != "IN":
            continue
        record = (words[0].lower(), words[1], words[3], words[4])
        if words[3] != "SOA":
            records.append(record)
        elif records and record == records[0]:
            found[record[0].rstrip(".")], records = records, []
        else:
            records = [record]
    return found


def parse_configuration(text: str) -> tuple[list[Zone], list[str], str]:
    """Read what `named-checkconf -p` writes: zones, addresses of the other servers, name of the key for transfers."""
    zones = []
    for name, body in re.findall(r'^zone "([^"]+)"[^\n]*\{\n(.*?)^\};', text, re.MULTILINE | re.DOTALL):
        if "allow-transfer" in body:
            key = UPDATE_KEY.search(body)
            file = re.search(r'\tfile "([^"]+)";', body)[1]
            zones.append(Zone(name, Path(file), "\ttype primary;" in body, key[1] if key else ""))
    peers = re.findall(r'^server ([0-9.]+)(?:/32)? \{\n\tkeys "([^"]+)";', text, re.MULTILINE)
    return zones, [address for address, _key in peers], peers[0][1] if peers else ""


def coming(names: list[str], zones: list[Zone]) -> list[Zone]:
    """Return the zones of these names that a primary does not have yet: others are going to write them, and nobody knows the key."""
    known = {zone.name for zone in zones}
    return [Zone(name, BEGIN.with_name(f"{name}.dynamic"), True, "of the deploy") for name in names if name not in known]


def run(*command: str, given: str | None = None) -> subprocess.CompletedProcess:
    """Run a program; return how it ended and what it said."""
    return subprocess.run(command, input=given, capture_output=True, text=True, errors="replace", check=False, timeout=60)


def dig(server: str, kind: str, zones: list[Zone], *options: str) -> str:
    """Ask a server for the records of one type of all these zones; return what it answers."""
    command = ["dig", *options, "+noall", "+answer", "+norecurse", "+time=2", "+tries=1", f"@{server}"]
    return run(*command, *(word for zone in zones for word in (zone.name, kind))).stdout if zones and answers(server) else ""


def answers(server: str) -> bool:
    """Say whether there is a name server, whatever it knows. Many questions to one that is off would each wait for it."""
    return run("dig", "+norecurse", "+time=1", "+tries=2", f"@{server}", "localhost", "A").returncode == 0


def ask_serials(zones: list[Zone], servers: list[str]) -> None:
    """Note which serials the servers have."""
    for zone in zones:
        zone.serials = {}
    for server in servers:
        # What dig says of itself, as of a connection that was refused, begins with a semicolon.
        lines = [line.split() for line in dig(server, "SOA", zones).splitlines() if not line.startswith(";")]
        told = {words[0].rstrip("."): int(words[6]) for words in lines if len(words) > 6 and words[3] == "SOA"}
        for zone in zones:
            if zone.name in told:
                zone.serials[server] = told[zone.name]


def read_file(zone: Zone, path: Path, *options: str) -> list[Record] | None:
    """Return what is in a file of a zone, with `-j` and in its journal; None for what BIND cannot load."""
    if not path.exists():
        return None
    told = run("named-compilezone", "-q", *options, "-i", "none", "-o", "-", zone.name, str(path))
    first = told.stdout.partition("\n")[0]
    return None if told.returncode else parse_zones(f"{told.stdout}\n{first}").get(zone.name)


def write_file(zone: Zone, records: list[Record]) -> None:
    """Let a zone begin with these records, as BIND's own file."""
    new = zone.file.with_name(f"{zone.file.name}.new")
    new.write_text("".join(f"{name} {ttl} IN {kind} {data}\n" for name, ttl, kind, data in records), encoding="ascii")
    shutil.chown(new, "bind", "bind")
    zone.journal.unlink(missing_ok=True)
    os.replace(new, zone.file)


def repair(zone: Zone, copies: list[list[Record]], check: bool) -> None:
    """Let a primary's zone begin again that BIND cannot load: from the newest of the other servers' copies, or what there is here."""
    own = read_file(zone, zone.file)
    newest = next((one for one in copies if not any(ahead(serial_of(other), serial_of(one)) for other in copies)), None)
    if own and not zone.update_key and not (newest and ahead(serial_of(newest), serial_of(own))):
        # Written by a deploy as a whole: the journal is for those who ask what has changed.
        print(f"{zone.name}: the journal is left away")
        if not check:
            zone.journal.unlink(missing_ok=True)
        return
    chosen = newest if newest and not (own and ahead(serial_of(own), serial_of(newest))) else own or read_file(zone, BEGIN)
    origin = "of another server" if chosen is newest else "of before its journal" if chosen is own else "that is empty"
    serial = following([serial_of(one) for one in [*copies, *([own] if own else [])]], int(time.time()))
    print(f"{zone.name}: begins again as {serial} from a zone {origin}")
    if not check:
        write_file(zone, renumbered(chosen, serial))


def repair_files(zones: list[Zone], peers: list[str], key: str, check: bool) -> bool:
    """Repair what BIND, as the primary, does not serve and cannot load; say whether there was anything."""
    broken = [zone for zone in zones if zone.primary and HERE not in zone.serials and read_file(zone, zone.file, "-j") is None]
    # After a power cut they start together.
    deadline = time.monotonic() + PATIENCE
    while broken and not all(answers(peer) for peer in peers) and time.monotonic() < deadline:
        time.sleep(1)
    copies = [parse_zones(dig(peer, "AXFR", broken, "-k", f"{KEYS}/{key}.key")) for peer in peers]
    for zone in broken:
        repair(zone, [one[zone.name] for one in copies if zone.name in one], check)
    return bool(broken)


def catch_up(zone: Zone, peer: str, key: str, check: bool) -> None:
    """Let a primary that is behind a secondary go on from there: with its own names, and those that the other one has besides."""
    transfers = [parse_zones(dig(server, "AXFR", [zone], "-k", f"{KEYS}/{key}.key")) for server in (HERE, peer)]
    own, other = (one.get(zone.name) for one in transfers)
    if own is None or other is None:
        raise SystemExit(f"{zone.name}: {peer} has a newer one and does not hand it out")
    known = {record[0] for record in own}
    serial = following([serial_of(own), serial_of(other)], int(time.time()))
    changes = [renumbered(own, serial)[0], *(record for record in other if record[0] not in known)]
    print(f"{zone.name}: goes on as {serial}, with {len(changes) - 1} records of {peer}, which was ahead")
    if not check:
        additions = "".join(f"update add {name} {ttl} IN {kind} {data}\n" for name, ttl, kind, data in changes)
        told = run("nsupdate", "-k", f"{KEYS}/{zone.update_key}.key", given=f"server {HERE}\nzone {zone.name}\n{additions}send\n")
        if told.returncode:
            raise SystemExit(f"{zone.name}: {told.stderr.strip()}")


def is_behind(zone: Zone) -> bool:
    """Say whether another server has a newer one, or this one has none that it should have."""
    own = zone.serials.get(HERE)
    return bool(zone.primary or zone.serials) if own is None else any(ahead(serial, own) for serial in zone.serials.values())


def agree(zone: Zone, peers: list[str], key: str, check: bool) -> None:
    """Let this server have the newest one of a zone in which it is behind."""
    if not zone.primary:
        print(f"{zone.name}: asks the primary for what it missed")
        if not check:
            run("rndc", "refresh" if HERE in zone.serials else "retransfer", zone.name)
    elif zone.update_key and HERE in zone.serials:
        catch_up(zone, next(peer for peer in peers if peer in zone.serials and ahead(zone.serials[peer], zone.serials[HERE])), key, check)


def settle(zones: list[Zone], servers: list[str], seconds: float) -> list[Zone]:
    """Wait for what is under way; return the zones in which this server is behind even so."""
    deadline = time.monotonic() + seconds
    while (found := [zone for zone in zones if is_behind(zone)]) and time.monotonic() < deadline:
        time.sleep(0.5)
        ask_serials(zones, servers)
    return found


def why_late(zone: Zone) -> str:
    """Say where to look when this server is behind in a zone, or has none, after all that it can do by itself."""
    if HERE not in zone.serials:
        return f"{zone.name}: not served; journalctl -u named says why"
    newer = ", ".join(server for server, serial in zone.serials.items() if ahead(serial, zone.serials[HERE]))
    if zone.primary:
        return f"{zone.name}: older than on {newer}; if that has been made the primary meanwhile, a deploy to this server tells it so"
    return f"{zone.name}: older than on {newer}, which does not hand it out; journalctl -u named says why"


def reload() -> None:
    """Let BIND read the files that were written; it takes no commands for a moment after its start."""
    deadline = time.monotonic() + SETTLED
    while run("rndc", "reload").returncode and time.monotonic() < deadline:
        time.sleep(0.5)


def main(*options: str) -> None:
    """Do it once."""
    check, files = "--check" in options, "--files" in options
    configuration = run("named-checkconf", "-p")
    if configuration.returncode:
        raise SystemExit(f"named-checkconf: {configuration.stdout.strip()}")
    zones, peers, key = parse_configuration(configuration.stdout)
    if check:
        zones += coming([option for option in options if not option.startswith("--")], zones)
    ask_serials(zones, [HERE, *peers])
    repaired = repair_files(zones, peers, key, check)
    if files:
        return
    if repaired and not check:
        reload()
    late = settle(zones, [HERE, *peers], 2)
    # Broken after this had looked, or told while BIND was still at the broken file: it leaves it at that, and systemd begins no second one.
    if not check and any(zone.primary and HERE not in zone.serials for zone in late):
        repair_files(late, peers, key, check)
        reload()
        late = settle(zones, [HERE, *peers], 2)
    for zone in late:
        agree(zone, peers, key, check)
    if not check and (late := settle(zones, [HERE, *peers], SETTLED)):
        raise SystemExit("\n".join(why_late(zone) for zone in late))


if __name__ == "__main__":
    main(*sys.argv[1:])
