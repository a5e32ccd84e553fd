"""The router forwards the LAN, and its bootstrap DHCP has retired."""

testinfra_hosts = ["ansible://router"]


def test_forwards_and_hides_the_lan(host, rack, node):
    """A resolver outside answers a node of the LAN, whose only way out is the router."""
    client = node(rack["rack_nodes"][-1]["name"])
    assert client.check_output("ip route show default").split()[2] == rack["rack_network"]["gateway"]
    outside = rack["rack_network"]["forwarders"][0]
    assert client.run(f"dig +time=3 +tries=2 @{outside} . NS").rc == 0


def test_has_no_more_bootstrap_dhcp(host, rack, python):
    assert not host.service("dnsmasq").is_running
    assert not host.service("dnsmasq").is_enabled
    interface = host.check_output(f"ip -oneline -4 address | grep 'inet {rack['rack_network']['gateway']}/' | cut -d' ' -f2")
    servers = python(
        host,
        f"""
with Conversation({interface!r}) as client:
    print(json.dumps([describe(offer)["server"] for offer in client.discover(3)]))
""",
    )
    assert servers, "nobody offers an address"
    assert set(servers) <= {server["address"] for server in rack["rack_lanservices"]}
