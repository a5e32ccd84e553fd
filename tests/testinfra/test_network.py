"""A node that has moved to the address of the rack leaves nothing at the one that it had before."""

import json

testinfra_hosts = ["ansible://all"]


def test_nobody_is_connected_to_an_address_that_the_node_has_no_more(host):
    """Their other end is gone; what they ran would wait for it for hours."""
    links = json.loads(host.check_output("ip -json address show"))
    own = {address["local"] for link in links for address in link["addr_info"]}
    sessions = host.check_output("ss --no-header --numeric --tcp state established '( sport = :22 )'").splitlines()
    places = [line.split()[2].rpartition(":")[0].strip("[]") for line in sessions]
    assert places, "nobody is connected, and this test is"
    assert [place for place in places if place not in own] == []
