"""Ask services several times a second, as their clients do, and write down every answer.

Runs on a node, alone and from standard input, with nothing but Python's library; module_utils/dhcp.py is put in front of it.
What to ask is the first argument, JSON: {"streams": [{"name": …, "kind": dns|ntp|lookup|lease, …}]}. It asks until its
standard input ends, and then prints JSON: {name: [[time of asking (s since 1970), seconds until the answer or null, detail], …]}.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import socket
import struct
import sys
import threading
import time
import types
from typing import Any

INTERVAL = 0.05
PATIENCE = 1.0
"""Seconds after which an answer over UDP counts as none."""
PORTS = {"dns": 53, "ntp": 123}
NTP_CLIENT = b"\x23" + bytes(47)
"""Version 4, mode 3 (RFC 5905 section 7.3)."""
RETRIES = (4, 8, 16, 32)
"""Seconds a DHCP client waits before it asks again (RFC 2131 section 4.1)."""
KEPT = 3
"""Strangers who keep their lease meanwhile. What they give back while its server is away is lost until it ends, and a pool is small."""
TWICE = " (which somebody else has)"

Samples = list[list]


def dns_question(number: int, name: str) -> bytes:
    """A question for the address of a name, recursion not desired (RFC 1035 section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", number, 0, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)


def dns_good(reply: bytes, number: int) -> bool:
    """Whether a reply is the one to question `number`, has an answer and no error."""
    replied, flags, _, count = struct.unpack("!4H", reply[:8])
    return replied == number and count > 0 and flags & 0x800F == 0x8000


def ntp_good(reply: bytes, number: int) -> bool:  # NTP does not number
    """Whether a reply is a server's (mode 4) and that server is synchronised (stratum 1 to 15)."""
    return reply[0] & 7 == 4 and 0 < reply[1] < 16


def datagrams(stream: dict, stop: threading.Event) -> Samples:
    """Ask a DNS or NTP server at every tick, whether it has answered the last question or not.

    Each question has a socket of its own, as those of most clients have: an answer is its own and nobody else's.
    """
    server = (stream["server"], stream.get("port", PORTS[stream["kind"]]))
    good = dns_good if stream["kind"] == "dns" else ntp_good
    samples: Samples = []
    waiting: dict[socket.socket, int] = {}
    tick = time.monotonic()

    def collect(until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select(list(waiting), [], [], left)
            for one in ready:
                index = waiting.pop(one)
                with contextlib.suppress(OSError, struct.error, IndexError):
                    reply = one.recv(2048)
                    if good(reply, index & 0xFFFF):
                        samples[index][1] = time.time() - samples[index][0]
                one.close()
            for one, index in list(waiting.items()):
                if time.time() - samples[index][0] > PATIENCE:
                    del waiting[one]
                    one.close()

    while not stop.is_set():
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setblocking(False)
        samples.append([time.time(), None, ""])
        question = dns_question((len(samples) - 1) & 0xFFFF, stream["question"]) if stream["kind"] == "dns" else NTP_CLIENT
        try:
            one.connect(server)
            one.send(question)
            waiting[one] = len(samples) - 1
        except OSError:
            one.close()
        tick = max(tick + stream.get("interval", INTERVAL), time.monotonic())
        collect(tick)
    collect(time.monotonic() + PATIENCE)
    return samples


def lookups(stream: dict, stop: threading.Event) -> Samples:
    """Resolve a name with the system's own resolver and its configuration, one after the other."""
    samples: Samples = []
    while not stop.is_set():
        began = time.time()
        try:
            found = socket.getaddrinfo(stream["question"], None, socket.AF_INET, socket.SOCK_STREAM)
            samples.append([began, time.time() - began, found[0][4][0]])
        except socket.gaierror as error:
            samples.append([began, None, str(error)])
        stop.wait(max(0.0, began + stream.get("interval", INTERVAL) - time.time()))
    return samples


def leases(dhcp: Any, stream: dict, stop: threading.Event) -> Samples:
    """Take a lease as one stranger after the other; each asks as often as RFC 2131 has it, until it is given one.

    The last ones keep theirs for a while: an address that somebody has and another one is given is marked. Who asks when the watch
    ends is given all of its time: that nobody answered is known only then. `dhcp` has what module_utils/dhcp.py defines.
    """
    samples: Samples = []
    kept: dict[str, tuple[bytes, dict]] = {}

    def give_back(most: int) -> None:
        while len(kept) > most:
            mac, lease = kept.pop(next(iter(kept)))
            with dhcp.Conversation(stream["interface"], mac) as client:
                client.release(lease)

    while not stop.is_set():
        began = time.time()
        sample = [began, None, ""]
        samples.append(sample)
        with dhcp.Conversation(stream["interface"]) as client:
            for wait in RETRIES:
                client.send(dhcp.DISCOVER)
                until = time.monotonic() + wait
                for offer in client.replies({dhcp.OFFER}, wait):
                    answer = client.request(offer, max(0.1, until - time.monotonic()))
                    if answer and answer["options"][dhcp.MESSAGE_TYPE][0] == dhcp.ACK:
                        address = answer["address"]
                        sample[1:] = [time.time() - began, f"{address}{TWICE if address in kept else ''}"]
                        kept[address] = client.mac, answer
                    break
                if sample[1] is not None:
                    break
        give_back(KEPT)
        stop.wait(max(0.0, began + stream.get("interval", 1.0) - time.time()))
    give_back(0)
    return samples


KINDS = {"dns": datagrams, "ntp": datagrams, "lookup": lookups}


def main(dhcp: Any) -> None:
    """Ask until the input ends; `dhcp` has what module_utils/dhcp.py defines, if anybody asks for leases."""
    kinds = KINDS | {"lease": functools.partial(leases, dhcp)}
    stop = threading.Event()
    results: dict[str, Samples] = {}

    def follow(stream: dict) -> None:
        results[stream["name"]] = kinds[stream["kind"]](stream, stop)

    threads = [threading.Thread(target=follow, args=(stream,), daemon=True) for stream in json.loads(sys.argv[1])["streams"]]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    while os.read(0, 65536):
        pass
    stop.set()
    for thread in threads:
        thread.join(PATIENCE + sum(RETRIES))
    print(json.dumps(results))


if __name__ == "__main__":
    main(types.SimpleNamespace(**globals()))
