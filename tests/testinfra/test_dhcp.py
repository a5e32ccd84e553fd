"""The LAN servers lease: asked from compute nodes, as themselves and as strangers."""

import ipaddress
import json
import shlex
import time

import pytest

testinfra_hosts = ["ansible://compute"]


def interface_of(host, mac):
    return host.check_output(f"ip -oneline link | grep -i {mac} | cut -d: -f2 | cut -d@ -f1").strip()


def test_holds_its_reserved_address_from_the_lan_servers(host, hostvars, rack):
    own = hostvars[host.backend.host]
    interface = interface_of(host, own["rack_mac"])
    lease = json.loads(host.check_output(f"networkctl --json=short status {interface}"))
    assert own["rack_address"] in host.interface(interface).addresses
    state = host.check_output(f"sudo cat /run/systemd/netif/leases/{lease['Index']}")
    values = dict(line.split("=", 1) for line in state.splitlines() if "=" in line and not line.startswith("#"))
    assert values["ADDRESS"] == own["rack_address"]
    assert values["SERVER_ADDRESS"] in [server["address"] for server in rack["rack_lanservices"]]


def test_both_servers_know_the_lease(host, hostvars, rack, node):
    own = hostvars[host.backend.host]
    for server in rack["rack_lanservices"]:
        leases = node(server["name"]).check_output("sudo cat /var/lib/kea/kea-leases4.csv")
        known = [line.split(",")[1] for line in leases.splitlines() if line.startswith(own["rack_address"] + ",")]
        assert own["rack_mac"] in known, f"{server['name']} does not know the lease"


def test_leases_to_a_stranger_from_the_pool_for_a_short_time(host, hostvars, rack, python):
    interface = interface_of(host, hostvars[host.backend.host]["rack_mac"])
    lease = python(
        host,
        f"""
with Conversation({interface!r}) as client:
    offer = next(client.discover(10))
    ack = client.request(offer, 5)
    kind = ack["options"][MESSAGE_TYPE][0]
    client.release(ack)
print(json.dumps({{**describe(ack), "kind": kind}}))
""",
    )
    network = rack["rack_network"]
    assert lease["kind"] == 5, "not an ACK"
    number = [int(part) for part in lease["address"].split(".")]
    assert [int(part) for part in network["pool_start"].split(".")] <= number <= [int(part) for part in network["pool_end"].split(".")]
    assert lease["lease_time"] == rack["rack_dhcp"]["pool_lifetime"]
    assert lease["server"] in [server["address"] for server in rack["rack_lanservices"]]
    assert lease["routers"] == [network["gateway"]]
    assert lease["dns"] == [network["vip"], *(server["address"] for server in rack["rack_lanservices"])]
    assert lease["domain"] == rack["rack_domain"]


@pytest.mark.parametrize("identifier", [None, b"\xffinstalled anew"], ids=["as it is", "installed anew"])
def test_offers_a_known_mac_its_own_address_and_nobody_else_does(host, hostvars, rack, python, identifier):
    """Whatever runs on it: option 61 (RFC 2132 section 9.14) is another one after an installation."""
    own = hostvars[host.backend.host]
    options = [(61, identifier)] if identifier else []
    offers = python(
        host,
        f"""
with Conversation({interface_of(host, own["rack_mac"])!r}, parse_mac({own["rack_mac"]!r})) as client:
    print(json.dumps([describe(offer) for offer in client.discover(2, options={options!r})]))
""",
    )
    assert {offer["address"] for offer in offers} == {own["rack_address"]}
    assert {offer["server"] for offer in offers} <= {server["address"] for server in rack["rack_lanservices"]}


def test_one_question_gets_one_offer(host, hostvars, python):
    """Of one server, that reads it once: also of the one with the floating address, whose interface has two."""
    interface = interface_of(host, hostvars[host.backend.host]["rack_mac"])
    offers = python(
        host,
        f"""
with Conversation({interface!r}) as client:
    print(json.dumps([describe(offer) for offer in client.discover(1, again=5)]))
""",
    )
    assert len(offers) == 1


def test_a_stranger_gets_a_name_and_loses_it_with_the_lease(host, hostvars, rack, python, eventually):
    """Forward and reverse, from both name servers; the name that it asks for shadows none of the rack."""
    interface = interface_of(host, hostvars[host.backend.host]["rack_mac"])
    own = hostvars[host.backend.host]["rack_name"]
    program = f"""
with Conversation({interface!r}, b"\\x02\\x00\\x5e" + {own!r}.encode()[:3]) as client:
    offer = next(client.discover(10))
    name = (HOSTNAME, {own!r}.encode())
    server = offer["options"][SERVER_ID]
    client.send(REQUEST, [(REQUESTED_ADDRESS, socket.inet_aton(offer["address"])), (SERVER_ID, server), name])
    ack = next(client.replies({{ACK}}, 5))
    if %s:
        client.release(ack)
print(json.dumps(ack["address"]))
"""
    address = python(host, program % False)
    reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    full = f"{own}.{rack['rack_dyn_domain']}"
    servers = [server["address"] for server in rack["rack_lanservices"]]

    def said(name, kind):
        return [host.check_output(f"dig +time=1 +tries=1 +short @{server} {name} {kind}") for server in servers]

    try:
        eventually(lambda: said(full, "A") == [address] * 2, 10)
        eventually(lambda: said(reverse, "PTR") == [f"{full}."] * 2, 10)
        assert said(f"{own}.{rack['rack_domain']}", "A") == [hostvars[host.backend.host]["rack_address"]] * 2
    finally:
        python(host, program % True)
    # Kea looks for leases that have ended every 10 s (reclaim-timer-wait-time).
    eventually(lambda: said(full, "A") == ["", ""], 20)
    eventually(lambda: said(reverse, "PTR") == ["", ""], 10)


KEPT = """
with Conversation({interface!r}, b"\\x02\\x00\\x5efil") as client:
    offer = next(client.discover(10))
    ack = client.request(offer, 5)
    if {release}:
        client.release(ack)
print(json.dumps(ack["address"]))
"""


@pytest.mark.disturbs("lan")
def test_both_servers_tell_how_full_the_pool_is(client, hostvars, rack, node, python):
    """A stranger more is one lease more, on both; the nodes of the rack, whose addresses are outside of it, are none."""
    interface = interface_of(client, hostvars[client.backend.host]["rack_mac"])
    network = rack["rack_network"]
    size = int(ipaddress.IPv4Address(network["pool_end"])) - int(ipaddress.IPv4Address(network["pool_start"])) + 1
    servers = [node(server["name"]) for server in rack["rack_lanservices"]]

    def told(server):
        server.check_output("sudo systemctl start dhcp-pair.service")
        state = json.loads(server.check_output("cat /run/dhcp-pair/state.json"))
        assert (state["problem"], state["state"], state["partner"]["state"]) == ("", "hot-standby", "hot-standby")
        assert abs(state["looked"] - float(server.check_output("date +%s"))) < 20
        return state["pool"]

    try:
        python(client, KEPT.format(interface=interface, release=False))
        taken = [told(server) for server in servers]
    finally:
        python(client, KEPT.format(interface=interface, release=True))
    left = [told(server) for server in servers]
    assert [pool["total"] for pool in taken] == [size] * 2
    assert [pool["leased"] for pool in taken] == [pool["leased"] + 1 for pool in left]


def test_a_declined_address_stays_away_for_minutes(rack, node):
    for server in rack["rack_lanservices"]:
        program = (
            "import json, socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/kea/kea4-ctrl-socket');"
            """s.sendall(b'{"command": "config-get"}'); s.shutdown(1); answer = json.loads(b''.join(iter(lambda: s.recv(65536), b'')));"""
            "print(answer['arguments']['Dhcp4']['decline-probation-period'])"
        )
        assert int(node(server["name"]).check_output(f"sudo python3 -c {shlex.quote(program)}")) <= 600


# What Kea sends to the name server on its own node does not arrive.
UNHEARD = """table inet unheard {
  chain sent { type filter hook output priority 0; meta skuid _kea udp dport 53 meta mark set 0x99; }
  chain arrived { type filter hook input priority -10; meta mark 0x99 drop; }
}"""


@pytest.mark.disturbs("lan")
def test_a_name_server_that_is_late_by_seconds_loses_no_name(client, hostvars, rack, node, python, eventually):
    interface = interface_of(client, hostvars[client.backend.host]["rack_mac"])
    primary, address = node(rack["rack_dns_primary"]["name"]), rack["rack_dns_primary"]["address"]
    program = f"""
with Conversation({interface!r}, b"\\x02\\x00\\x5elat") as client:
    offer = next(client.discover(10))
    server = (SERVER_ID, offer["options"][SERVER_ID])
    client.send(REQUEST, [(REQUESTED_ADDRESS, socket.inet_aton(offer["address"])), server, (HOSTNAME, b"late")])
    ack = next(client.replies({{ACK}}, 5))
    if %s:
        client.release(ack)
print(json.dumps(ack["address"]))
"""

    def said(name, kind):
        return client.check_output(f"dig +time=1 +tries=1 +short @{address} {name} {kind}")

    full = f"late.{rack['rack_dyn_domain']}"
    primary.check_output(f"printf %s {shlex.quote(UNHEARD)} | sudo nft --file -")
    try:
        leased = python(client, program % False)
        time.sleep(3)
        assert said(full, "A") == "", "it was to be late"
    finally:
        primary.check_output("sudo nft delete table inet unheard")
    try:
        # Asked again after 5 s (dns-server-timeout).
        eventually(lambda: said(full, "A") == leased, 10)
        eventually(lambda: said(".".join(reversed(leased.split("."))) + ".in-addr.arpa", "PTR") == f"{full}.", 10)
    finally:
        python(client, program % True)
