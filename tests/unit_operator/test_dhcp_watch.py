from __future__ import annotations

import importlib.util
import socket
import struct
import sys

import pytest

from beowulf import status
from beowulf.process import ROOT

FOLDER = ROOT / "roles/dhcp/files/usr/local/lib/beowulf"
OWN = ["10.77.0.11", "10.77.0.12"]


@pytest.fixture(scope="module")
def watch():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("dhcp_watch", FOLDER / "dhcp-watch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(FOLDER))
    return module


def packet(source, port, protocol=socket.IPPROTO_UDP):
    header = bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(2) + socket.inet_aton(source) + socket.inet_aton("255.255.255.255")
    return header + struct.pack("!4H", port, 68, 8, 0)


def test_a_server_is_known_by_its_port(watch):
    mac = bytes.fromhex("b827eb000001")
    assert watch.sender(packet("10.77.0.1", 67), mac) == ("10.77.0.1", "b8:27:eb:00:00:01")
    assert watch.sender(packet("10.77.0.1", 53), mac) is None
    assert watch.sender(packet("10.77.0.1", 67, socket.IPPROTO_TCP), mac) is None


def test_only_foreign_servers_are_named(watch):
    offers = [{"server": "10.77.0.11", "address": "10.77.0.200"}, {"server": "10.77.0.1", "address": "10.77.0.230"}]
    senders = {"10.77.0.1": "b8:27:eb:00:00:01"}
    assert watch.strangers(offers, senders, OWN) == [{"server": "10.77.0.1", "mac": "b8:27:eb:00:00:01", "offers": "10.77.0.230"}]
    assert watch.strangers(offers[:1], senders, OWN) == []
    assert watch.strangers(offers, {}, OWN)[0]["mac"] == "unknown"


@pytest.mark.parametrize("text", ["", "[", "{}", "null", '[{"server": "x"}]'])
def test_what_a_node_cannot_tell_is_no_stranger(text):
    assert status.foreign(text) == []
