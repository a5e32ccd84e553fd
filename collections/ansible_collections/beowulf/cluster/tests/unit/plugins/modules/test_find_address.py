"""Where a machine is, by its MAC address."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from ansible_collections.beowulf.cluster.plugins.modules import find_address

OWN, NODE, OTHER = (bytes.fromhex(f"b827eb0000{last}") for last in ("01", "21", "22"))


def reply(mac, address, operation=find_address.REPLY):
    head = OWN + mac + struct.pack("!H", find_address.ARP) + find_address.HEAD + struct.pack("!H", operation)
    return (head + mac + socket.inet_aton(address) + OWN + bytes(4)).ljust(60, b"\0")


@pytest.fixture
def lan():
    """A cable to a LAN on which nobody answers yet: this end of it, and the other one."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        yield near, far


def answering(far, machines):
    """Answer probes for `machines`, {address: MAC}, until the cable is unplugged."""

    def serve():
        while True:
            try:
                frame = far.recv(2048)
            except OSError:
                return
            address = socket.inet_ntoa(frame[38:42])
            if address in machines:
                far.send(reply(machines[address], address))

    threading.Thread(target=serve, daemon=True).start()


def packed(*addresses):
    return [socket.inet_aton(address) for address in addresses]


def test_addresses_and_ranges_are_listed_in_their_order_and_not_without_end():
    assert find_address.listed(["10.0.0.9", "10.0.0.1 - 10.0.0.3"]) == packed("10.0.0.9", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert len(find_address.listed(["10.0.0.0-10.255.255.255"])) == find_address.MOST
    for wrong in ("", "10.0.0", "a-b"):
        with pytest.raises(ValueError, match=r"4 octets|Address cannot be empty"):
            find_address.listed([wrong])


def test_the_machine_is_found_and_nobody_else(lan):
    near, far = lan
    answering(far, {"10.0.0.200": OTHER, "10.0.0.201": NODE})
    wanted = find_address.listed(["10.0.0.21", "10.0.0.200-10.0.0.239"])
    assert find_address.find(near, NODE, OWN, wanted, 5) == socket.inet_aton("10.0.0.201")


def test_of_several_addresses_the_first_that_was_named_counts(lan):
    near, far = lan
    answering(far, {"10.0.0.200": NODE, "10.0.0.21": NODE})
    assert find_address.find(near, NODE, OWN, packed("10.0.0.200", "10.0.0.21"), 5) == socket.inet_aton("10.0.0.200")


def test_a_board_that_comes_late_is_waited_for_and_one_that_does_not_come_is_not(lan, monkeypatch):
    monkeypatch.setattr(find_address, "AGAIN", 0.05)
    near, far = lan
    threading.Timer(0.3, answering, [far, {"10.0.0.21": NODE}]).start()
    assert find_address.find(near, NODE, OWN, packed("10.0.0.21"), 10) == socket.inet_aton("10.0.0.21")
    began = time.monotonic()
    assert find_address.find(near, OTHER, OWN, packed("10.0.0.21"), 0.3) is None
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "frame", [b"", b"\0" * 41, reply(NODE, "10.0.0.21", find_address.REQUEST), reply(NODE, "10.0.0.21")[:30], b"\xff" * 2000]
)
def test_what_is_no_answer_is_passed_over(frame):
    assert find_address.answer(frame) is None


def test_the_interface_is_the_one_with_the_address_and_no_bridge(tmp_path):
    for name, mac in (("br0", NODE), ("end0", NODE), ("lo", bytes(6))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(mac.hex(":") + "\n")
    (tmp_path / "br0" / "bridge").mkdir()
    assert find_address.interface_of(NODE, tmp_path) == "end0"
    with pytest.raises(LookupError, match="no interface has the MAC address b8:27:eb:00:00:22"):
        find_address.interface_of(OTHER, tmp_path)
