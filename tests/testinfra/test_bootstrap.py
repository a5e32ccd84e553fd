"""The router leases addresses as long as nobody else does, and no longer."""

testinfra_hosts = ["ansible://router"]


def test_leases_only_while_no_lan_server_does(host, rack, chosen, client, python):
    """Asked by a stranger, for longer than dnsmasq takes to see by a ping that nobody has the address (3 s)."""
    successors = {server["address"] for server in rack["rack_lanservices"] if server["name"] in chosen}
    servers = python(
        client,
        f"""
with Conversation({client.check_output("ip route show default").split()[4]!r}) as stranger:
    print(json.dumps([describe(offer)["server"] for offer in stranger.discover(8)]))
""",
    )
    assert servers, "nobody offers an address"
    assert set(servers) <= (successors or {rack["rack_router"]["address"]})
    assert host.service("dnsmasq").is_running != bool(successors)
    assert not host.service("dnsmasq").is_enabled, "it would come back at a boot beside its successors"


def test_answers_names_only_while_it_leases(host, rack, chosen, client):
    retired = any(server["name"] in chosen for server in rack["rack_lanservices"])
    answer = client.run(f"dig +time=1 +tries=1 +short @{rack['rack_router']['address']} deb.debian.org")
    assert (answer.rc == 0 and answer.stdout != "") != retired
