"""The floating address is on exactly one LAN server, and leaves one that cannot hold it."""

import time

import pytest

testinfra_hosts = ["ansible://router"]


def holders(rack, node):
    vip = rack["rack_network"]["vip"]
    return [
        server["name"]
        for server in rack["rack_lanservices"]
        if node(server["name"]).run(f"ip -oneline -4 address | grep -q 'inet {vip}/'").rc == 0
    ]


@pytest.mark.usefixtures("host")
def test_has_one_holder(rack, node):
    assert len(holders(rack, node)) == 1


def test_moves_when_its_holder_stops_and_stays_there(host, rack, node, eventually):
    """Stopping keepalived is an orderly leave; a name asked through the floating address is answered by the other server."""
    vip, name = rack["rack_network"]["vip"], rack["rack_nodes"][-1]
    (first,) = holders(rack, node)
    other = next(server["name"] for server in rack["rack_lanservices"] if server["name"] != first)
    node(first).check_output("sudo systemctl stop keepalived")
    try:
        eventually(lambda: holders(rack, node) == [other], 5)
        eventually(lambda: host.run(f"dig +time=1 +tries=1 +short @{vip} {name['fqdn']}").stdout.strip() == name["address"], 5)
    finally:
        node(first).check_output("sudo systemctl start keepalived")
    eventually(lambda: node(first).service("keepalived").is_running, 5)
    # Long enough for the returning one to take it back, if it wanted to: startup delay and three adverts.
    time.sleep(5)
    assert holders(rack, node) == [other]


@pytest.mark.usefixtures("host")
def test_leaves_a_holder_whose_name_server_does_not_answer(rack, node, eventually):
    (first,) = holders(rack, node)
    other = next(server["name"] for server in rack["rack_lanservices"] if server["name"] != first)
    node(first).check_output("sudo pkill -STOP -x named")
    try:
        eventually(lambda: holders(rack, node) == [other], 10)
    finally:
        node(first).check_output("sudo pkill -CONT -x named")
    eventually(lambda: node(first).run("dig +time=1 +tries=1 @127.0.0.1 localhost").rc == 0, 10)
    time.sleep(5)
    assert holders(rack, node) == [other]


@pytest.mark.usefixtures("host")
def test_leaves_a_holder_whose_name_server_answers_without_its_zones(rack, node, eventually):
    (first,) = holders(rack, node)
    other = next(server["name"] for server in rack["rack_lanservices"] if server["name"] != first)
    zones, question = "/etc/bind/named.conf.local", f"dig +time=1 +tries=1 +short +norecurse @127.0.0.1 {first}.{rack['rack_domain']}"
    node(first).check_output(f"sudo mv {zones} {zones}.aside && sudo touch {zones} && sudo systemctl reload named")
    try:
        answer = node(first).run(question)
        assert (answer.rc, answer.stdout) == (0, "")
        eventually(lambda: holders(rack, node) == [other], 10)
    finally:
        node(first).check_output(f"sudo mv {zones}.aside {zones} && sudo systemctl reload named")
    eventually(lambda: node(first).check_output(question) != "", 10)
    time.sleep(5)
    assert holders(rack, node) == [other]
