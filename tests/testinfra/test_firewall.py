"""Nothing comes in but SSH, answers, and what the functions of a node ask for."""

import pytest

testinfra_hosts = ["ansible://all"]

CLOSED = 9
"""Discard: a port that no function asks for."""


@pytest.fixture
def stranger(host, rack, client, node, chosen):
    """A node of the LAN that is not this one."""
    if client.backend.host != host.backend.host:
        return client
    return node(next(each["name"] for each in rack["rack_nodes"] if each["name"] in chosen and each["name"] != host.backend.host))


def test_lets_in_ssh_and_drops_the_rest(host, hostvars, stranger, knock):
    address = hostvars[host.backend.host]["rack_address"]
    assert knock(stranger, address, 22) == "open"
    assert knock(stranger, address, CLOSED) == "silent"
    assert knock(host, "127.0.0.1", CLOSED) == "refused"


def test_the_talk_of_the_dhcp_pair_is_closed_to_others(host, hostvars, rack, stranger, node, knock):
    own = hostvars[host.backend.host]
    if "dhcp" not in own["rack_functions"]:
        pytest.skip("no DHCP server")
    peer = node(own["rack_peers"][0]["name"])
    assert knock(peer, own["rack_address"], 8001) == "open"
    assert knock(stranger, own["rack_address"], 8001) == "silent"


@pytest.mark.disturbs("lan")
def test_rules_that_are_wrong_do_not_replace_good_ones(host):
    before = host.check_output("sudo nft --stateless list table inet beowulf")
    assert "policy drop" in before
    host.check_output("echo 'table inet beowulf { chain input { tcp dport nonsense accept } }' | sudo tee /etc/nftables.d/zz-wrong.nft")
    try:
        assert host.run("sudo nft --file /etc/nftables.conf").rc != 0
        assert host.check_output("sudo nft --stateless list table inet beowulf") == before
    finally:
        host.check_output("sudo rm /etc/nftables.d/zz-wrong.nft")


@pytest.mark.disturbs("lan")
def test_the_rules_are_loaded_at_boot(host):
    assert host.service("nftables").is_enabled
    host.check_output("sudo systemctl restart nftables")
    assert "policy drop" in host.check_output("sudo nft --stateless list table inet beowulf")
