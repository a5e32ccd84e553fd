#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: dhcp_discover
short_description: Ask a LAN which DHCP servers offer an address
version_added: 0.1.0
description:
  - Broadcasts a DHCPDISCOVER (RFC 2131) every two seconds and collects the offers. Takes none of them, so nothing changes anywhere.
  - Needs root on the node, which may have an address on that interface or not.
options:
  interface:
    description: Interface to ask on.
    type: str
    required: true
  mac:
    description: MAC address to ask as. Without it a random stranger asks, with a locally administered address.
    type: str
  timeout:
    description: Seconds to wait for offers.
    type: float
    default: 2
  until:
    description: Stop waiting as soon as one of these servers has offered.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Find servers that do not belong here
  beowulf.cluster.dhcp_discover:
    interface: eth0
  register: dhcp
  failed_when: dhcp.offers | map(attribute='server') | difference(['10.77.0.11', '10.77.0.12']) | length > 0
"""

RETURN = """
offers:
  description: One entry for each server, in order of arrival.
  returned: always
  type: list
  elements: dict
  contains:
    server: {description: Server identifier of the offer, type: str}
    address: {description: Address offered, type: str}
    lease_time: {description: Seconds, type: int}
    routers: {description: Default gateways, type: list}
    dns: {description: Name servers, type: list}
    domain: {description: Domain name, type: str}
    after: {description: Seconds until it arrived, type: float}
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.beowulf.cluster.plugins.module_utils import dhcp


def main():
    """Ask, collect, report."""
    module = AnsibleModule(
        argument_spec={
            "interface": {"type": "str", "required": True},
            "mac": {"type": "str"},
            "timeout": {"type": "float", "default": 2},
            "until": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    offers, start = [], time.monotonic()
    try:
        mac = dhcp.parse_mac(module.params["mac"]) if module.params["mac"] else None
        with dhcp.Conversation(module.params["interface"], mac) as client:
            for reply in client.discover(module.params["timeout"]):
                offer = dhcp.describe(reply)
                if offer["server"] not in [known["server"] for known in offers]:
                    offers.append({**offer, "after": round(time.monotonic() - start, 3)})
                if offer["server"] in module.params["until"]:
                    break
    except ValueError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"cannot ask for addresses on {module.params['interface']}: {exc}")
    module.exit_json(changed=False, offers=offers)


if __name__ == "__main__":
    main()
