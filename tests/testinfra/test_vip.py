"""The floating address is on exactly one LAN server, and leaves one that cannot hold it."""

import shlex
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


@pytest.mark.disturbs("lan")
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


@pytest.mark.disturbs("lan")
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


@pytest.mark.disturbs("lan")
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


UNABLE = {
    "missing": "true",
    "empty": "install -m 755 /dev/null {program}",
    "not executable": "install -m 644 {program}.aside {program}",
    "hanging": "printf '%s\\n' '#!/bin/sh' 'sleep 100' >{program}; chmod 755 {program}",
}


@pytest.mark.disturbs("lan")
@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("how", UNABLE)
def test_leaves_a_holder_that_cannot_find_out_how_it_is(rack, node, eventually, how):
    """A check that cannot be run is a check that failed, also for a keepalived that is started without it."""
    (first,) = holders(rack, node)
    other = next(server["name"] for server in rack["rack_lanservices"] if server["name"] != first)
    line = node(first).check_output("sudo sed -n 's/^ *script \"\\(.*\\)\"$/\\1/p' /etc/keepalived/keepalived.conf")
    # What the check consists of, besides the shell that everything needs.
    own = [word for word in shlex.split(line) if word.startswith("/") and word != "/bin/sh"]
    for program in own or [node(first).check_output("readlink -f /usr/bin/dig")]:
        node(first).check_output(f"sudo mv {program} {program}.aside")
        try:
            node(first).check_output("sudo sh -c %s", UNABLE[how].format(program=program) + "; systemctl stop named")
            eventually(lambda: holders(rack, node) == [other], 10)
            node(first).check_output("sudo systemctl restart keepalived")
            node(other).check_output("sudo systemctl stop keepalived")
            # Nobody else is there, and still it does not take it: its start-up delay, an election, two checks.
            time.sleep(9)
            assert holders(rack, node) == []
        finally:
            node(first).check_output(f"sudo mv {program}.aside {program}")
            node(first).check_output("sudo systemctl start named && sudo systemctl restart keepalived")
            node(other).check_output("sudo systemctl start keepalived")
        eventually(lambda: len(holders(rack, node)) == 1, 15)
