from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
import types

import pytest

from beowulf.health import readings
from beowulf.process import ROOT

FOLDER = ROOT / "roles/dhcp/files/usr/local/lib/beowulf"
OWN = {"10.77.0.11": "b8:27:eb:00:00:11", "10.77.0.12": "b8:27:eb:00:00:12"}
ROUTER = "b8:27:eb:00:00:01"
CLIENT = b"\x02abcde"


@pytest.fixture(scope="module")
def watch(load):
    return load(FOLDER / "dhcp-watch.py")


def packet(source, port, protocol=socket.IPPROTO_UDP, message=b"", to=68):
    header = bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(2) + socket.inet_aton(source) + socket.inet_aton("255.255.255.255")
    return header + struct.pack("!4H", port, to, 8 + len(message), 0) + message


def offer(server, address="10.77.0.230", kind=b"\x02"):
    """A server's message; without the option for a server that does not say who it is."""
    head = struct.pack("!BBBBIHH", 2, 1, 6, 0, 7, 0, 0x8000) + bytes(4) + socket.inet_aton(address) + bytes(8)
    option = bytes((54, 4)) + socket.inet_aton(server) if server else b""
    return head + CLIENT.ljust(16, b"\0") + bytes(192) + bytes((99, 130, 83, 99, 53, len(kind))) + kind + option + b"\xff"


@pytest.fixture
def lan(watch, monkeypatch):
    """What is on the wire while the watch listens, as (packet, MAC); an exception is one of the socket."""
    frames, clock, kind = [], [0.0], watch.Conversation

    class Wire:
        def __init__(self, *unused):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *unused):
            pass

        def bind(self, address):
            pass

        def settimeout(self, seconds):
            assert seconds > 0
            self.seconds = seconds

        def recvfrom(self, size):
            if not frames:
                clock[0] += self.seconds
                raise TimeoutError
            if isinstance(frames[0], OSError):
                raise frames.pop(0)
            data, mac = frames.pop(0)
            return data[:size], ("eth0", 0x0800, 1, 1, bytes.fromhex(mac.replace(":", "")))

    def conversation(interface):
        client = object.__new__(kind)
        client.mac, client.xid, client.socket = CLIENT, 7, None
        client.send = lambda kind: None
        return client

    def fresh(*found):
        frames[:] = found

    monkeypatch.setattr(watch, "time", types.SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    monkeypatch.setattr(watch.socket, "socket", Wire)
    monkeypatch.setattr(watch, "Conversation", lambda interface: contextlib.nullcontext(conversation(interface)))
    return fresh


@pytest.fixture
def looks(watch, tmp_path):
    """Let the watch look once: its exit status, and what it writes."""
    path = tmp_path / "strangers.json"

    def once():
        status = watch.main("eth0", str(path), *(f"{address}={mac.upper()}" for address, mac in OWN.items()))
        return status, json.loads(path.read_text())

    return once


def test_what_clients_are_told_is_read_from_whatever_port(watch):
    """A client takes it from any, too."""
    assert watch.read(packet("10.77.0.1", 67, message=b"x")) == ("10.77.0.1", b"x")
    assert watch.read(packet("10.77.0.1", 5353, message=b"x")) == ("10.77.0.1", b"x")
    assert watch.read(packet("10.77.0.1", 67, to=53)) is None
    assert watch.read(packet("10.77.0.1", 67, socket.IPPROTO_TCP)) is None


def test_only_foreign_servers_are_named(lan, looks):
    own = [(packet(address, 67, message=offer(address)), mac) for address, mac in OWN.items()]
    lan(*own, (packet("10.77.0.1", 67, message=offer("10.77.0.1")), ROUTER), *own)
    status, state = looks()
    assert (status, state["strangers"], state["problem"]) == (0, [{"server": "10.77.0.1", "mac": ROUTER, "offers": "10.77.0.230"}], "")
    assert time.time() - state["looked"] < 10
    lan(*own)
    assert looks()[1]["strangers"] == []


@pytest.mark.parametrize("source", ["10.77.0.11", "192.0.2.7"])
def test_a_stranger_who_takes_the_name_of_a_server_is_known_by_its_mac(lan, looks, source):
    lan((packet(source, 67, message=offer("10.77.0.11")), "02:00:00:00:00:66"))
    assert looks()[1]["strangers"] == [{"server": "10.77.0.11", "mac": "02:00:00:00:00:66", "offers": "10.77.0.230"}]


def test_a_server_that_does_not_say_who_it_is_is_named_by_where_it_is(lan, looks):
    lan((packet("10.77.0.1", 67, message=offer("")), ROUTER))
    assert looks()[1]["strangers"][0]["server"] == "10.77.0.1"


def test_what_strangers_send_hides_nobody_and_is_bounded(watch, lan, looks):
    chance = random.Random(1)
    good = (packet("10.77.0.1", 67, message=offer("10.77.0.1")), ROUTER)
    noise = [
        (packet("10.77.0.1", 67, message=offer("10.77.0.1", kind=b"")), ROUTER),
        (b"", ROUTER),
        (b"\x45", ROUTER),
        (bytes(300), ROUTER),
    ]
    for _ in range(300):
        data = bytearray(packet("10.77.0.1", 67, message=offer("10.77.0.1")))
        for _ in range(4):
            data[chance.randrange(len(data))] = chance.randrange(256)
        noise.append((bytes(data)[: chance.randrange(len(data))], ROUTER))
    lan(*noise, good)
    assert {"server": "10.77.0.1", "mac": ROUTER, "offers": "10.77.0.230"} in looks()[1]["strangers"]
    lan(*[(packet("10.77.0.1", 67, message=offer(f"192.0.2.{number}")), ROUTER) for number in range(200)])
    assert len(looks()[1]["strangers"]) == watch.MOST


def test_a_watch_that_cannot_look_says_so_and_when_it_last_could(lan, looks):
    lan((packet("10.77.0.1", 67, message=offer("10.77.0.1")), ROUTER))
    _, seen = looks()
    lan(OSError(100, "Network is down"))
    status, state = looks()
    assert status == 1
    assert state["problem"] == "could not look on eth0: [Errno 100] Network is down"
    assert (state["looked"], state["strangers"]) == (seen["looked"], seen["strangers"])
    lan()
    assert looks()[1]["problem"] == ""


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "7"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(watch, tmp_path, text):
    (tmp_path / "old.json").write_text(text)
    assert watch.before(str(tmp_path / "old.json")) == {"looked": None, "problem": "", "strangers": []}


@pytest.mark.parametrize("text", ["", "[", "{}", "null", '[{"server": "x"}]'])
def test_what_a_node_cannot_tell_is_no_stranger(text):
    assert readings.foreign(readings.watch(text)) == []
    assert readings.foreign({"strangers": text}) == readings.foreign({"strangers": [text, {"server": 1, "mac": "x", "offers": "x"}]}) == []
