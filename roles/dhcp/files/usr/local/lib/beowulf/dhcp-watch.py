#!/usr/bin/python3
"""Ask the LAN for an address and name whoever offers one and should not: dhcp-watch INTERFACE FILE ADDRESS=MAC...

The last arguments are the cluster's own servers. What it finds goes to the journal as warnings and to FILE as JSON:
{"looked": seconds since 1970 of the last time that it could look, null before the first,
 "problem": why it could not look this time, or "",
 "strangers": [{"server": address, "mac": address, "offers": address}, ...] as they were seen when it last looked}

A server is known by its address together with the MAC address that its frames come from: the address in its message is what it says of
itself. Who also takes the MAC address of a server takes its place on the switch, and that no message can tell.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time

from dhcp import CLIENT_PORT, DISCOVER, OFFER, Conversation, describe, message_type, parse

PATIENCE = 4.0
"""Seconds to listen: a server may look first whether an address is free (dnsmasq takes 3)."""
AGAIN = 2.0
"""Seconds after which it asks once more."""
MOST = 16
"""Strangers that are told: one machine can be as many as it likes."""
IPV4 = 0x0800
WARNING, ERROR = "<4>", "<3>"
"""Priorities of a line for the journal (sd-daemon(3))."""


def read(packet: bytes) -> tuple[str, bytes] | None:
    """An IPv4 packet -> (address it came from, message) to a DHCP client, from whatever port; None for anything else."""
    header = (packet[0] & 15) * 4 if packet else 0
    if header < 20 or len(packet) < header + 8 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
        return None
    if int.from_bytes(packet[6:8], "big") & 0x1FFF or int.from_bytes(packet[header + 2 : header + 4], "big") != CLIENT_PORT:
        return None
    return socket.inet_ntoa(packet[12:16]), packet[header + 8 :]


def offer_in(packet: bytes, mac: bytes, client: Conversation) -> dict[str, str] | None:
    """An IPv4 packet and the MAC address (bytes) it came from -> the server, its MAC and the address of an offer to `client`, or None."""
    found = read(packet)
    reply = parse(found[1]) if found else None
    if not reply or not client.concerns(reply) or message_type(reply) != OFFER:
        return None
    told = describe(reply)
    return {"server": told["server"] or found[0], "mac": mac.hex(":"), "offers": told["address"]}


def strangers(offers: list[dict[str, str]], known: dict[str, str]) -> list[dict[str, str]]:
    """Offers (see offer_in), the cluster's own servers {address: MAC} -> the others, each once."""
    found = {(one["server"], one["mac"]): one for one in offers if known.get(one["server"]) != one["mac"]}
    return [found[each] for each in sorted(found)][:MOST]


def look(interface: str) -> list[dict[str, str]]:
    """Ask on an interface; return the offers. Raises OSError when it cannot."""
    offers: dict[tuple[str, str], dict[str, str]] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(IPV4)) as tap, Conversation(interface) as client:
        tap.bind((interface, IPV4))
        end = time.monotonic() + PATIENCE
        asked = float("-inf")
        while (now := time.monotonic()) < end:
            if now - asked >= AGAIN:
                client.send(DISCOVER)
                asked = now
            tap.settimeout(max(0.001, min(end, asked + AGAIN) - now))
            try:
                packet, address = tap.recvfrom(2048)
            except TimeoutError:
                continue
            found = offer_in(packet, address[4], client)
            if found and len(offers) <= 10 * MOST:
                offers[found["server"], found["mac"]] = found
    return list(offers.values())


def before(path: str) -> dict:
    """What the last look wrote to a file, as far as it can be read."""
    empty = {"looked": None, "problem": "", "strangers": []}
    try:
        with open(path, encoding="ascii") as file:
            return {**empty, **json.load(file)}
    except (OSError, ValueError, TypeError):
        return empty


def main(interface: str, path: str, *known: str) -> int:
    """Look once; return the exit status."""
    state = before(path)
    try:
        found = strangers(look(interface), dict(one.lower().split("=") for one in known))
        state = {"looked": time.time(), "problem": "", "strangers": found}
    except OSError as error:
        state["problem"] = f"could not look on {interface}: {error}"
        print(f"{ERROR}{state['problem']}", file=sys.stderr)
    else:
        for one in found:
            print(f"{WARNING}a foreign DHCP server {one['server']} ({one['mac']}) offers {one['offers']}", file=sys.stderr)
    with open(f"{path}.new", "w", encoding="ascii") as file:
        json.dump(state, file)
    os.replace(f"{path}.new", path)
    return 1 if state["problem"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
