#!/usr/bin/python3
"""Ask the LAN for an address and name whoever offers one and should not: dhcp-watch INTERFACE FILE SERVER...

What it finds goes to FILE as JSON, [{"server": address, "mac": address, "offers": address}, ...], and to the journal as warnings.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from dhcp import SERVER_PORT, Conversation, describe

PATIENCE = 4.0
"""Seconds to listen: a server may look first whether an address is free (dnsmasq takes 3)."""
IPV4 = 0x0800
WARNING = "<4>"
"""Priority of a line for the journal (sd-daemon(3))."""


def sender(packet: bytes, mac: bytes) -> tuple[str, str] | None:
    """An IPv4 packet and the MAC address (6 bytes) it came from -> (address, MAC) of a DHCP server; None for anything else."""
    header = (packet[0] & 15) * 4
    if packet[9] != socket.IPPROTO_UDP or int.from_bytes(packet[header : header + 2], "big") != SERVER_PORT:
        return None
    return socket.inet_ntoa(packet[12:16]), mac.hex(":")


def strangers(offers: list[dict], senders: dict[str, str], known: list[str]) -> list[dict[str, str]]:
    """Offers (see dhcp.describe), {address: MAC} of who sent them, addresses of the cluster's own servers -> the others."""
    found = {offer["server"]: offer["address"] for offer in offers if offer["server"] not in known}
    return [{"server": server, "mac": senders.get(server, "unknown"), "offers": address} for server, address in sorted(found.items())]


def look(interface: str) -> tuple[list[dict], dict[str, str]]:
    """Ask on an interface; return the offers, and who sent them."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(IPV4)) as tap, Conversation(interface) as client:
        tap.bind((interface, IPV4))
        tap.setblocking(False)
        offers = [describe(offer) for offer in client.discover(PATIENCE)]
        senders = {}
        while True:
            try:
                packet, address = tap.recvfrom(2048)
            except BlockingIOError:
                return offers, senders
            if found := sender(packet, address[4]):
                senders[found[0]] = found[1]


def main(interface: str, path: str, *known: str) -> None:
    """Look once."""
    found = strangers(*look(interface), list(known))
    for one in found:
        print(f"{WARNING}a foreign DHCP server {one['server']} ({one['mac']}) offers {one['offers']}", file=sys.stderr)
    with open(f"{path}.new", "w", encoding="ascii") as file:
        json.dump(found, file)
    os.replace(f"{path}.new", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
