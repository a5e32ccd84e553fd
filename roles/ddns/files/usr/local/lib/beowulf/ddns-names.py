#!/usr/bin/python3
"""Give every lease its name in DNS, and take away the names whose leases have ended: ddns-names [--count]

Kea tells the name server of a change once. One that comes while the name server is away is lost: here it is found and sent once more, in
the same way, and only on the server that leases. With --count it is only told, as JSON: {"missing": ..., "stale": ...}; null when it
cannot be known, as the name server or Kea does not answer or the other server leases.

Zones, name server and key are read from the configuration of Kea's DHCP-DDNS server. Who runs this may read that, and talk to Kea.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import kea_control

CONFIGURATION = "/etc/kea/kea-dhcp-ddns.conf"
SERVING = {"hot-standby", "partner-down"}
LIMIT = 20
"""Changes at a time; what is left over is sent by the next run."""
REMOVE = 1
"""Type of a change, for the DHCP-DDNS server."""
NOBODY = "000001"
"""Owner of a name of an address: whose it is, is not asked for there."""


@dataclass(frozen=True)
class Names:
    """What the zones have: which address a name has, whose it is (DHCID), and which name an address has."""

    addresses: dict[str, str]
    owners: dict[str, str]
    pointers: dict[str, str]


@dataclass(frozen=True)
class Change:
    """A name to take away, in the forward zone, in the reverse zone, or in both."""

    name: str
    address: str
    owner: str
    forward: bool
    reverse: bool


def serves(status: dict) -> bool:
    """Say whether this server leases, from its answer to status-get; its partner leaves the names alone."""
    local = status["arguments"]["high-availability"][0]["ha-servers"]["local"]
    return local["state"] in SERVING and bool(local["scopes"])


def leased(answer: dict, zones: list[str], reverse: set[str]) -> dict[str, str]:
    """Take the names that leases should have, {address: name}, from the answer to lease4-get-all.

    Those outside the zones, as of the nodes of the rack, the DHCP-DDNS server does not write either.
    """
    found = {}
    for lease in answer.get("arguments", {}).get("leases", []):
        name, address = lease.get("hostname", "").rstrip(".").lower(), lease["ip-address"]
        ours = any(name.endswith(f".{zone}") for zone in zones) and (not reverse or pointer(address) in reverse)
        if lease["state"] == 0 and lease["fqdn-fwd"] and ours:
            found[address] = name
    return found


def pointer(address: str) -> str:
    """Return the name of an address in the reverse zones."""
    return IPv4Address(address).reverse_pointer


def parse(text: str) -> Names:
    """Read what dig writes."""
    names = Names({}, {}, {})
    for line in text.splitlines():
        words = line.split(None, 4)
        if len(words) < 5 or words[2] != "IN":
            continue
        name, kind, data = words[0].rstrip(".").lower(), words[3], words[4]
        if kind == "A":
            names.addresses[name] = data
        elif kind == "DHCID":
            names.owners[name] = base64.b64decode(data.replace(" ", "")).hex().upper()
        elif kind == "PTR":
            names.pointers[name] = data.rstrip(".").lower()
    return names


def missing(leases: dict[str, str], names: Names, reverse: set[str]) -> list[str]:
    """Return the addresses whose lease has no name. Of two leases with one name the later one is refused it, and would be for ever."""
    return [
        address
        for address, name in leases.items()
        if name not in names.addresses
        or (names.addresses[name] == address and reverse and names.pointers.get(pointer(address)) != name)
    ]  # fmt: skip


def stale(leases: dict[str, str], names: Names, reverse: set[str]) -> list[Change]:
    """Return the names to take away: those that the DHCP servers wrote, which therefore have an owner, and that no lease has any more."""
    gone = {name: address for name, address in names.addresses.items() if name in names.owners and leases.get(address) != name}
    changes = [Change(name, address, names.owners[name], True, pointer(address) in reverse) for name, address in gone.items()]
    for zone, name in names.pointers.items():
        address = ".".join(reversed(zone.split(".")[:4]))
        if zone in reverse and leases.get(address) != name and gone.get(name) != address:
            changes.append(Change(name, address, NOBODY, False, True))
    return changes


def ask_names(server: str, key: dict, zones: list[str], reverse: set[str]) -> Names | None:
    """Ask a name server for what there is in the zones; None when it does not tell all of it."""
    secret = f'key "{key["name"]}" {{ algorithm {key["algorithm"]}; secret "{key["secret"]}"; }};'
    command = ["dig", "-k", "/dev/stdin", "+noall", "+answer", "+norecurse", "+time=2", "+tries=1", f"@{server}"]
    text = ""
    # One after the other: each question waits for a server that is off.
    for questions in ([word for zone in zones for word in (zone, "AXFR")], [word for zone in sorted(reverse) for word in (zone, "PTR")]):
        told = subprocess.run(
            [*command, *questions], input=secret, capture_output=True, text=True, errors="replace", check=False, timeout=60
        )
        text += told.stdout
        # Each transfer begins and ends with the SOA record.
        if told.returncode or sum(line.split()[3:4] == ["SOA"] for line in text.splitlines()) < 2 * len(zones):
            return None
    return parse(text)


def remove(change: Change, server: tuple[str, int]) -> None:
    """Tell the DHCP-DDNS server to take a name away, as Kea does when a lease ends."""
    request = {
        "change-type": REMOVE,
        "forward-change": change.forward,
        "reverse-change": change.reverse,
        "fqdn": f"{change.name}.",
        "ip-address": change.address,
        "dhcid": change.owner,
        "lease-expires-on": time.strftime("%Y%m%d%H%M%S", time.gmtime()),
        "lease-length": 0,
        "conflict-resolution-mode": "check-with-dhcid",
    }
    text = json.dumps(request).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(len(text).to_bytes(2, "big") + text, server)


def find(settings: dict) -> tuple[list[str], list[Change]] | None:
    """Return the addresses whose lease has no name, and the names without a lease; None when that cannot be known."""
    zones, reverse = ([one["name"].rstrip(".") for one in settings[f"{kind}-ddns"]["ddns-domains"]] for kind in ("forward", "reverse"))
    server = settings["forward-ddns"]["ddns-domains"][0]["dns-servers"][0]["ip-address"]
    # Names first: one that came in between has its lease.
    names = ask_names(server, settings["tsig-keys"][0], zones, set(reverse))
    try:
        if names is None or not serves(kea_control.ask("status-get")):
            return None
        leases = leased(kea_control.ask("lease4-get-all"), zones, set(reverse))
    except (OSError, ValueError, LookupError):
        return None
    return missing(leases, names, set(reverse)), stale(leases, names, set(reverse))


def main(*options: str) -> None:
    """Do it once."""
    settings = json.loads(Path(CONFIGURATION).read_text(encoding="utf-8"))["DhcpDdns"]
    found = find(settings)
    if "--count" in options:
        print(json.dumps(found and {"missing": len(found[0]), "stale": len(found[1])}))
        return
    absent, gone = found or ([], [])
    for change in gone[:LIMIT]:
        print(f"{change.name} ({change.address}) has no lease: it is taken away")
        remove(change, (settings["ip-address"], settings["port"]))
    for address in absent[: LIMIT - len(gone[:LIMIT])]:
        print(f"{address} has no name: it is told again")
        kea_control.ask("lease4-resend-ddns", {"ip-address": address})


if __name__ == "__main__":
    main(*sys.argv[1:])
