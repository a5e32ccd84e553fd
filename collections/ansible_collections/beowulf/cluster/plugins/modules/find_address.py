#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: find_address
short_description: Find the IPv4 address that a machine of a LAN has today, by its MAC address
version_added: 0.1.0
description:
  - >-
    Asks the LAN with ARP probes (RFC 5227 section 1.1) who has each of some addresses, until the machine with the MAC address answers.
    So it is found whichever DHCP server has leased what to it, and nothing is changed anywhere.
  - Anyone can answer in another one's name. The address is where to look, and no proof of who is there.
  - Needs root on the node that asks.
options:
  mac:
    description: MAC address of the machine to find.
    type: str
    required: true
  own_mac:
    description: MAC address of the interface to ask from, whatever its name is.
    type: str
    required: true
  addresses:
    description: >-
      Addresses to ask for, each as V(10.0.0.7) or as a range V(10.0.0.200-10.0.0.239). The first that the machine has is returned. Of more
      than 4096, those after the first 4096 are not asked for.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds to go on asking; a board that was just powered on has no address yet.
    type: float
    default: 2
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Find a board that was just powered on
  beowulf.cluster.find_address:
    mac: b8:27:eb:00:00:21
    own_mac: b8:27:eb:00:00:01
    addresses: [10.77.0.21, 10.77.0.200-10.77.0.239]
    timeout: 90
  delegate_to: omega
  register: found
  failed_when: not found.address
"""

RETURN = """
address:
  description: The address, empty when nobody with that MAC address answered.
  returned: always
  type: str
"""

import ipaddress
import itertools
import socket
import struct
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.beowulf.cluster.plugins.module_utils.dhcp import parse_mac

ARP = 0x0806
REQUEST, REPLY = 1, 2
HEAD = struct.pack("!HHBB", 1, 0x0800, 6, 4)
"""Ethernet and IPv4, with the lengths of their addresses (RFC 826)."""
BROADCAST = b"\xff" * 6
MOST = 4096
AGAIN = 1.0
"""Seconds until all addresses are asked for once more."""


def listed(texts):
    """Addresses and ranges (list of str) -> addresses (list of bytes, 4), at most MOST. Raises ValueError for what is neither."""
    found = []
    for text in texts:
        first, _, last = text.partition("-")
        begin, end = ipaddress.IPv4Address(first.strip()), ipaddress.IPv4Address((last or first).strip())
        found.append(ipaddress.IPv4Address(number).packed for number in range(int(begin), int(end) + 1))
    return list(itertools.islice(itertools.chain.from_iterable(found), MOST))


def interface_of(mac, folder="/sys/class/net"):
    """MAC address (bytes, 6) -> name of the interface that has it and is no bridge (str). Raises LookupError if there is none."""
    for link in sorted(Path(folder).iterdir()):
        address = link / "address"
        if not (link / "bridge").exists() and address.exists() and address.read_text(encoding="ascii").strip() == mac.hex(":"):
            return link.name
    raise LookupError(f"no interface has the MAC address {mac.hex(':')}")


def probe(own_mac, address):
    """An ARP probe (bytes): who has this address (bytes, 4)? It comes from nobody's address, so that no table of neighbours changes."""
    return BROADCAST + own_mac + struct.pack("!H", ARP) + HEAD + struct.pack("!H", REQUEST) + own_mac + bytes(4) + bytes(6) + address


def answer(frame):
    """A frame (bytes) -> (MAC address, address) (bytes, bytes) of who answers in it; None if it is no answer."""
    if len(frame) < 42 or frame[12:14] != struct.pack("!H", ARP) or frame[14:20] != HEAD or frame[20:22] != struct.pack("!H", REPLY):
        return None
    return frame[22:28], frame[28:32]


def find(tap, mac, own_mac, wanted, timeout):
    """Ask for the addresses `wanted` (list of bytes) until `mac` (bytes) answers for one; return it, None after `timeout` seconds.

    Of those that answer in the same round the first in `wanted` counts.
    """
    deadline, held = time.monotonic() + timeout, set()
    while not held and time.monotonic() < deadline:
        for number, address in enumerate(wanted):
            tap.send(probe(own_mac, address))
            if number % 256 == 255:
                time.sleep(0.02)  # a flood would fill the queues of slow boards
        until = min(time.monotonic() + AGAIN, deadline)
        while (left := until - time.monotonic()) > 0:
            tap.settimeout(left)
            try:
                heard = answer(tap.recv(2048))
            except TimeoutError:
                break
            if heard and heard[0] == mac and heard[1] in wanted:
                held.add(heard[1])
                until = min(until, time.monotonic() + 0.2)
    return next((address for address in wanted if address in held), None)


def main():
    """Ask, listen, report."""
    module = AnsibleModule(
        argument_spec={
            "mac": {"type": "str", "required": True},
            "own_mac": {"type": "str", "required": True},
            "addresses": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "float", "default": 2},
        },
        supports_check_mode=True,
    )
    try:
        mac, own_mac, wanted = parse_mac(module.params["mac"]), parse_mac(module.params["own_mac"]), listed(module.params["addresses"])
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP)) as tap:
            tap.bind((interface_of(own_mac), ARP))
            address = find(tap, mac, own_mac, wanted, module.params["timeout"])
    except (ValueError, LookupError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"cannot ask the LAN who has {module.params['mac']}: {exc}")
    module.exit_json(changed=False, address=socket.inet_ntoa(address) if address else "")


if __name__ == "__main__":
    main()
