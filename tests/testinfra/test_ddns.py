"""A stranger's name comes and goes with its lease, whenever the name server is there to hear of it."""

import json
import time

import pytest

pytestmark = pytest.mark.disturbs("lan")

STRANGER = """
with Conversation({interface!r}, b"\\x02\\x00\\x5eaway"[:6]) as client:
    offer = next(client.discover(10))
    server = (SERVER_ID, offer["options"][SERVER_ID])
    client.send(REQUEST, [(REQUESTED_ADDRESS, socket.inet_aton(offer["address"])), server, (HOSTNAME, b"away")])
    ack = next(client.replies({{ACK}}, 5))
    if {release}:
        client.release(ack)
print(json.dumps(ack["address"]))
"""
AWAY = 20
"""Seconds: Kea notices the end of a lease within 10, and its DHCP-DDNS server gives up after 15."""
BACK = 45
"""Seconds in which what was lost is found (every 30) and has reached both servers."""


def test_what_happened_while_the_name_server_was_away_is_made_up_for(client, hostvars, rack, node, python, eventually):
    mac = hostvars[client.backend.host]["rack_mac"]
    interface = client.check_output(f"ip -oneline link | grep -i {mac} | cut -d: -f2 | cut -d@ -f1").strip()
    primary = node(rack["rack_dns_primary"]["name"])
    name = f"away.{rack['rack_dyn_domain']}"

    def stranger(release):
        return python(client, STRANGER.format(interface=interface, release=release))

    def said(question, kind):
        servers = [server["address"] for server in rack["rack_lanservices"]]
        return [client.check_output(f"dig +time=1 +tries=1 +short @{server} {question} {kind}") for server in servers]

    def unheard(release):
        primary.check_output("sudo systemctl stop named")
        try:
            address = stranger(release)
            time.sleep(AWAY)
        finally:
            primary.check_output("sudo systemctl start named")
        return address

    address = unheard(False)
    reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    try:
        eventually(lambda: said(name, "A") == [address] * 2, BACK)
        eventually(lambda: said(reverse, "PTR") == [f"{name}."] * 2, 5)
    finally:
        unheard(True)
    eventually(lambda: said(name, "A") == ["", ""], BACK)
    eventually(lambda: said(reverse, "PTR") == ["", ""], 5)


def test_every_lease_has_its_name_and_every_name_its_lease(rack, node, eventually):
    """As the server tells that leases; the other one does not know."""
    ask = "sudo -u _kea python3 /usr/local/lib/beowulf/ddns-names.py --count"

    def told():
        return [json.loads(node(server["name"]).check_output(ask)) for server in rack["rack_lanservices"]]

    eventually(lambda: sorted(told(), key=bool) == [None, {"missing": 0, "stale": 0}], BACK)
