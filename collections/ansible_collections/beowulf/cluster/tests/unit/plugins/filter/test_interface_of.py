from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.beowulf.cluster.plugins.filter.interface_of import interface_of

FACTS = {
    "nodename": "alpha",
    "interfaces": ["lo", "br-lan", "end0"],
    "lo": {"device": "lo", "type": "loopback"},
    "br_lan": {"device": "br-lan", "type": "bridge", "macaddress": "b8:27:eb:00:00:11"},
    "end0": {"device": "end0", "type": "ether", "macaddress": "b8:27:eb:00:00:11"},
}


def test_finds_the_interface_whatever_its_name_and_the_case():
    assert interface_of(FACTS, "B8:27:EB:00:00:11") == "end0"


def test_says_which_node_and_which_mac():
    with pytest.raises(AnsibleFilterError, match="no interface of alpha has the MAC address 02:00:00:00:00:01 of the rack file"):
        interface_of(FACTS, "02:00:00:00:00:01")
