from __future__ import annotations

import json
import random
import socket
import struct

import pytest

from ansible_collections.beowulf.cluster.plugins.module_utils import dhcp


def reply(mac: bytes, xid: int, address: str, options: bytes) -> bytes:
    """A server's message, laid out as in RFC 2131 figure 1."""
    header = struct.pack("!BBBBIHH", 2, 1, 6, 0, xid, 0, 0x8000)
    body = header + bytes(4) + socket.inet_aton(address) + bytes(8) + mac.ljust(16, b"\0") + bytes(192)
    return body + bytes((99, 130, 83, 99)) + options


def test_a_message_has_the_layout_of_the_rfc():
    message = dhcp.build(dhcp.DISCOVER, b"\x02abcde", 0x01020304, [(dhcp.PARAMETERS, bytes((1, 3)))])
    assert message[:12] == bytes((1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0))
    assert message[28:34] == b"\x02abcde"
    assert message[236:].startswith(bytes((99, 130, 83, 99, 53, 1, 1, 55, 2, 1, 3, 255)))
    assert len(message) == 300


def test_a_reply_tells_address_server_and_time():
    options = bytes((53, 1, 2, 54, 4, 10, 77, 0, 11, 0, 51, 4, 0, 0, 1, 44, 6, 8, 10, 77, 0, 5, 10, 77, 0, 11, 15, 3)) + b"lab\xff"
    parsed = dhcp.parse(reply(b"\x02abcde", 7, "10.77.0.200", options))
    assert parsed["xid"] == 7
    assert parsed["mac"] == b"\x02abcde"
    assert dhcp.describe(parsed) == {
        "server": "10.77.0.11",
        "address": "10.77.0.200",
        "lease_time": 300,
        "routers": [],
        "dns": ["10.77.0.5", "10.77.0.11"],
        "domain": "lab",
    }


def test_a_reply_tells_what_to_boot():
    message = bytearray(reply(b"\x02abcde", 7, "10.77.0.200", bytes((53, 1, 2, 255))))
    assert (dhcp.parse(message)["next_server"], dhcp.parse(message)["boot_file"]) == ("0.0.0.0", "")
    message[20:24], message[108:118] = socket.inet_aton("10.77.0.11"), b"pxelinux.0"
    assert (dhcp.parse(message)["next_server"], dhcp.parse(message)["boot_file"]) == ("10.77.0.11", "pxelinux.0")


@pytest.mark.parametrize(
    ("options", "sent"),
    [((), {55: bytes((1, 3, 6, 15))}), ([(55, b"\x2b"), (60, b"PXEClient")], {55: b"\x2b", 60: b"PXEClient"})],
)
def test_a_client_asks_with_the_options_it_is_given(options, sent):
    client = object.__new__(dhcp.Conversation)  # without a socket, which only root may open
    asked = []
    client.send = lambda kind, options: asked.append((kind, dict(options)))
    client.replies = lambda kinds, timeout: iter(["an offer"])
    assert next(client.discover(1, options=options)) == "an offer"
    assert asked == [(dhcp.DISCOVER, sent)]


@pytest.mark.parametrize("message", [b"", b"x" * 239, bytes(300), dhcp.build(dhcp.DISCOVER, b"\x02abcde", 7)])
def test_what_is_no_reply_is_none(message):
    assert dhcp.parse(message) is None


def test_a_truncated_option_ends_the_reading():
    assert dhcp.parse(reply(b"\x02abcde", 7, "10.77.0.200", bytes((53, 1, 2, 51, 4, 0))))["options"][53] == b"\x02"


def test_strangers_have_locally_administered_unicast_addresses():
    first, second = dhcp.random_mac(), dhcp.random_mac()
    assert first != second
    assert first[0] & 0b11 == 0b10


@pytest.mark.parametrize("text", ["", "02:00:00:00:00", "02:00:00:00:00:00:01", "zz:00:00:00:00:00"])
def test_a_bad_mac_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011  # of bytes.fromhex or ours
        dhcp.parse_mac(text)


MAC = b"\x02abcde"


@pytest.mark.parametrize(
    "options", [bytes((53, 0, 255)), b"", bytes((53,)), bytes((53, 1)), bytes((53, 1, 2, 54, 0, 255)), bytes((53, 1, 2))]
)
def test_an_offer_that_does_not_say_from_which_server_is_none(options):
    assert list(heard([reply(MAC, 7, "10.77.0.200", options)])) == []


def test_options_go_on_in_the_fields_of_names():
    message = bytearray(reply(MAC, 7, "10.77.0.200", bytes((53, 1, 2, 52, 1, 3, 255))))
    message[44:50], message[108:115] = bytes((54, 4, 10, 77, 0, 9)), bytes((6, 4, 10, 77, 0, 9, 255))
    told = dhcp.describe(dhcp.parse(bytes(message)))
    assert (told["server"], told["dns"], dhcp.parse(bytes(message))["boot_file"]) == ("10.77.0.9", ["10.77.0.9"], "")


def test_what_a_server_writes_is_shown_without_control_characters():
    evil = b"\x1b]0;mine\x07\r\n\xff\x9b"
    message = bytearray(reply(MAC, 7, "10.77.0.200", bytes((53, 1, 2, 15, len(evil))) + evil + b"\xff"))
    message[108 : 108 + len(evil)] = evil
    parsed = dhcp.parse(bytes(message))
    assert dhcp.describe(parsed)["domain"] == parsed["boot_file"] == "?]0;mine?????"


def heard(messages):
    """What a conversation that waits for offers makes of these messages."""
    client = object.__new__(dhcp.Conversation)  # without a socket, which only root may open
    client.mac, client.xid, waiting = MAC, 7, iter(messages)

    class Wire:
        def settimeout(self, seconds):
            assert seconds > 0

        def recv(self, size):
            try:
                return next(waiting)[:size]
            except StopIteration:
                raise TimeoutError from None

    client.socket = Wire()
    return client.replies({dhcp.OFFER}, 60)


def strange(chance):
    """A message (bytes) of a stranger who knows what an offer to us looks like, and spoils it."""
    kinds = (b"", b"\x02", b"\x02", b"\x02\x02", b"\xff")
    codes = (0, 1, 3, 6, 12, 15, 50, 51, 52, 53, 54, 255, chance.randrange(256))
    options = bytes((53, len(value := chance.choice(kinds)))) + value + chance.choice((b"", bytes((54, 4, 10, 77, 0, 9))))
    for _ in range(chance.randrange(12)):
        value = chance.randbytes(chance.choice((0, 1, 3, 4, 8, 255)))
        options += bytes((chance.choice(codes), chance.choice((len(value), len(value), 0, 255)))) + value
    message = bytearray(reply(MAC, 7, "10.77.0.200", options))
    for _ in range(chance.choice((0, 0, 3))):
        message[chance.randrange(len(message))] = chance.randrange(256)
    message[44:236] = chance.choice((bytes(192), chance.randbytes(192)))
    return bytes(message)[: chance.choice((len(message), len(message), chance.randrange(len(message) + 1)))]


def test_nothing_that_a_stranger_sends_is_an_error():
    chance = random.Random(2131)
    messages = [strange(chance) for _ in range(20000)] + [chance.randbytes(chance.randrange(600)) for _ in range(2000)]
    parsed = [one for one in map(dhcp.parse, messages) if one]
    told = [dhcp.describe(one) for one in parsed]
    assert len(parsed) > 5000
    offers = list(heard(messages))
    assert len(offers) > 500
    assert all(len(offer["options"][dhcp.SERVER_ID]) == 4 for offer in offers)
    assert all(
        json.dumps(one).isascii() and (one["domain"] + offer["boot_file"]).isprintable() for one, offer in zip(told, parsed, strict=True)
    )
