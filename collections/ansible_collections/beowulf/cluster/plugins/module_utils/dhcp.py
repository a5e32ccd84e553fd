# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A DHCP client for one conversation: it asks as a machine of any MAC and leaves the interface as it is.

Message format: RFC 2131 section 2; options: RFC 2132. Only the standard library, because it runs on the nodes.
Anybody on the LAN may send what is read here: whatever it is, it is read or left out, and raises nothing.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time

CLIENT_PORT, SERVER_PORT = 68, 67  # RFC 2131 section 4.1
MAGIC = bytes((99, 130, 83, 99))  # RFC 2131 section 3
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = range(1, 8)  # RFC 2132 section 9.6
NETMASK, ROUTER, DNS, HOSTNAME, DOMAIN = 1, 3, 6, 12, 15
REQUESTED_ADDRESS, LEASE_TIME, OVERLOAD, MESSAGE_TYPE, SERVER_ID, PARAMETERS = 50, 51, 52, 53, 54, 55
END = 255
BROADCAST_FLAG = 0x8000


def random_mac():
    """A MAC address (bytes, 6) that no vendor owns: locally administered, unicast (IEEE 802, 8.2)."""
    return b"\x02" + os.urandom(5)


def parse_mac(text):
    """`aa:bb:cc:dd:ee:ff` -> bytes (6). Raises ValueError for anything else."""
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if len(mac) != 6:
        raise ValueError("not a MAC address: " + text)
    return mac


def build(kind, mac, xid, options=()):
    """One client message (bytes) of type `kind` from `mac` (bytes, 6) in transaction `xid` (int, 32 bit).

    options: pairs of (code, bytes). Answers are asked for by broadcast, as this client owns no address yet.
    """
    header = struct.pack("!BBBBIHH", 1, 1, 6, 0, xid, 0, BROADCAST_FLAG)
    body = header + bytes(16) + mac.ljust(16, b"\0") + bytes(192) + MAGIC
    for code, value in ((MESSAGE_TYPE, bytes((kind,))), *options):
        body += bytes((code, len(value))) + value
    return (body + bytes((END,))).ljust(300, b"\0")


def printable(value):
    """Bytes as text (str) that a terminal can be shown: whatever is not printable ASCII is a question mark."""
    return "".join(chr(one) if 32 <= one < 127 else "?" for one in value)


def read_options(field, options):
    """Add the options in a field of a message (bytes) to options ({code: bytes}); one that is cut off ends the reading."""
    at = 0
    while at + 1 < len(field) and field[at] != END:
        if field[at] == 0:
            at += 1
            continue
        value = field[at + 2 : at + 2 + field[at + 1]]
        if len(value) < field[at + 1]:
            return
        options[field[at]] = options.get(field[at], b"") + value
        at += 2 + len(value)


def parse(message):
    """A server's message (bytes) -> dict of xid (int), mac (bytes), address, next_server, boot_file (str), options ({code: bytes});
    None if malformed."""
    if len(message) < 240 or message[0] != 2 or message[236:240] != MAGIC:
        return None
    options, name, file = {}, message[44:108], message[108:236]
    read_options(message[240:], options)
    overload = int.from_bytes(options.get(OVERLOAD, b"")[:1], "big")  # RFC 2132 section 9.3
    if overload & 1:
        read_options(file, options)
        file = b""
    if overload & 2:
        read_options(name, options)
    return {
        "xid": struct.unpack("!I", message[4:8])[0],
        "mac": message[28:34],
        "address": socket.inet_ntoa(message[16:20]),
        "next_server": socket.inet_ntoa(message[20:24]),
        "boot_file": printable(file.split(b"\0")[0]),
        "options": options,
    }


def message_type(reply):
    """The type of a reply of `parse` (int), 0 without one."""
    return int.from_bytes(reply["options"].get(MESSAGE_TYPE, b"")[:1], "big")


def addresses(value):
    """An option's value (bytes) as a list of IPv4 addresses (str)."""
    return [str(ipaddress.IPv4Address(value[i : i + 4])) for i in range(0, len(value) - len(value) % 4, 4)]


def describe(reply):
    """What a reply of `parse` tells a client: server, address, lease time (s), routers, name servers, domain."""
    options = reply["options"]
    return {
        "server": (addresses(options.get(SERVER_ID, b"")) or [""])[0],
        "address": reply["address"],
        "lease_time": int.from_bytes(options.get(LEASE_TIME, b""), "big"),
        "routers": addresses(options.get(ROUTER, b"")),
        "dns": addresses(options.get(DNS, b"")),
        "domain": printable(options.get(DOMAIN, b"").rstrip(b"\0")),
    }


class Conversation:
    """Talks to the DHCP servers behind `interface` as the machine `mac` (bytes, 6; default: a random stranger).

    Needs CAP_NET_RAW or root for the port and the interface. Use as a context manager.
    """

    def __init__(self, interface, mac=None):
        self.mac = mac or random_mac()
        self.xid = int.from_bytes(os.urandom(4), "big")
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self.socket.bind(("", CLIENT_PORT))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.socket.close()

    def send(self, kind, options=()):
        """Broadcast one message of type `kind`."""
        self.socket.sendto(build(kind, self.mac, self.xid, options), ("255.255.255.255", SERVER_PORT))

    def concerns(self, reply):
        """Whether a reply of `parse` is one to this conversation."""
        return (reply["xid"], reply["mac"]) == (self.xid, self.mac)

    def replies(self, kinds, timeout):
        """Yield replies (see `parse`) of the message types `kinds` to this conversation for `timeout` seconds.

        One that does not say which server it is from is none (RFC 2131 table 3).
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                reply = parse(self.socket.recv(4096))
            except TimeoutError:
                return
            if reply and self.concerns(reply) and message_type(reply) in kinds and len(reply["options"].get(SERVER_ID, b"")) == 4:
                yield reply

    def discover(self, timeout, again=2.0, options=()):
        """Yield the offers that arrive within `timeout` seconds, asking every `again` seconds. An offer binds nobody to anything.

        options: more pairs of (code, bytes), which may replace the parameters asked for.
        """
        wanted = {PARAMETERS: bytes((NETMASK, ROUTER, DNS, DOMAIN)), **dict(options)}
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            self.send(DISCOVER, wanted.items())
            yield from self.replies({OFFER}, min(again, left))

    def request(self, offer, timeout):
        """Take an offer: the server's answer (see `parse`), an ACK or a NAK, or None within `timeout` seconds."""
        server = offer["options"][SERVER_ID]
        self.send(REQUEST, [(REQUESTED_ADDRESS, socket.inet_aton(offer["address"])), (SERVER_ID, server)])
        return next(self.replies({ACK, NAK}, timeout), None)

    def release(self, lease):
        """Give a lease back (RFC 2131 section 4.4.6). The server does not answer."""
        message = bytearray(build(RELEASE, self.mac, self.xid, [(SERVER_ID, lease["options"][SERVER_ID])]))
        message[12:16] = socket.inet_aton(lease["address"])
        self.socket.sendto(bytes(message), ("255.255.255.255", SERVER_PORT))
