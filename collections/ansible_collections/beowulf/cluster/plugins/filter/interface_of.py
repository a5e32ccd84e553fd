# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over a node's facts."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

DOCUMENTATION = """
name: interface_of
short_description: Name of the interface that has a MAC address
version_added: 0.1.0
description: Boards name their interfaces as they like (C(eth0), C(end0), C(enxb827eb000021)); the MAC of the rack is certain.
positional: _input, mac
options:
  _input:
    description: The node's facts (C(ansible_facts)), with the subset C(network).
    type: dict
    required: true
  mac:
    description: MAC address, in any case.
    type: str
    required: true
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
dhcp_interface: "{{ ansible_facts | beowulf.cluster.interface_of(rack_mac) }}"
"""

RETURN = """
_value:
  description: Name of the interface.
  type: str
"""


def interface_of(facts, mac):
    """Facts (dict) and MAC address (str) -> name of the interface (str). Raises AnsibleFilterError if there is none."""
    for name in facts.get("interfaces", []):
        # Facts name an interface `br-lan` as `br_lan`.
        link = facts.get(name.replace("-", "_").replace(":", "_"), {})
        if str(link.get("macaddress", "")).lower() == mac.lower() and link.get("type") != "bridge":
            return link.get("device", name)
    raise AnsibleFilterError(f"no interface of {facts.get('nodename', 'this node')} has the MAC address {mac} of the rack file")


class FilterModule:
    """Filters by name."""

    def filters(self):
        """Name -> function."""
        return {"interface_of": interface_of}
