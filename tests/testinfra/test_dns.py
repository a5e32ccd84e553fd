"""Both LAN servers answer for the cluster and for the world; the secondary follows the primary."""

import pytest

testinfra_hosts = ["ansible://compute"]


def servers(rack):
    return [rack["rack_network"]["vip"], *(server["address"] for server in rack["rack_lanservices"])]


def dig(host, server, *question):
    return host.check_output(f"dig +time=2 +tries=1 +short @{server} {' '.join(question)}").splitlines()


def test_every_record_of_the_rack_from_both_servers(host, rack):
    for zone in rack["rack_zones"]:
        top = f"{zone['name']}."
        wanted = {(top if each["name"] == "@" else f"{each['name']}.{top}", each["type"], each["value"]) for each in zone["records"]}
        questions = " ".join(sorted({f"{name} {kind}" for name, kind, _value in wanted}))
        for server in servers(rack)[1:]:
            answers = host.check_output(f"dig +time=2 +tries=1 +noall +answer @{server} {questions}").splitlines()
            found = {(name, kind, value) for name, _ttl, _class, kind, value in (line.split(maxsplit=4) for line in answers)}
            # What a question for an alias brings beside the alias is of another name.
            assert {record for record in found if (record[0], record[1]) in {pair[:2] for pair in wanted}} == wanted, server


def test_resolves_through_the_floating_address(host, rack):
    node = rack["rack_nodes"][-1]
    vip = rack["rack_network"]["vip"]
    assert host.check_output("awk '$1 == \"nameserver\" {print $2}' /etc/resolv.conf").splitlines() == servers(rack)
    assert dig(host, vip, node["fqdn"]) == [node["address"]]
    assert dig(host, vip, "-x", node["address"]) == [node["fqdn"] + "."]


@pytest.mark.parametrize("server", [1, 2])
def test_serials_are_equal_and_authoritative(host, rack, server):
    for zone in rack["rack_zones"]:
        first, this = servers(rack)[1], servers(rack)[server]
        assert dig(host, this, zone["name"], "SOA") == dig(host, first, zone["name"], "SOA")
        flags = host.check_output(f"dig @{this} {zone['name']} SOA | sed -n 's/^;; flags: \\([a-z ]*\\);.*/\\1/p'")
        assert "aa" in flags.split()


def test_transfers_need_the_key(host, rack):
    for server in servers(rack)[1:]:
        answer = host.run(f"dig +time=2 +tries=1 @{server} {rack['rack_domain']} AXFR")
        assert "Transfer failed" in answer.stdout


def test_a_change_reaches_the_secondary_by_notify(host, rack, node, eventually):
    """The refresh time of the zone is minutes: what arrives within seconds came by NOTIFY. The change goes back afterwards."""
    primary = node(rack["rack_dns_primary"]["name"])
    secondary = rack["rack_dns_secondaries"][0]["address"]
    domain, path = rack["rack_domain"], f"/var/lib/bind/{rack['rack_domain']}.zone"
    serial = int(dig(host, secondary, domain, "SOA")[0].split()[2])
    assert dig(host, secondary, f"notified.{domain}", "TXT") == []
    primary.check_output(f"sudo cp --preserve {path} {path}.kept")
    try:
        edit = f"s/ {serial} 300 60 / {serial + 1} 300 60 /; $ a notified TXT here"
        primary.check_output(f"sudo sed -i '{edit}' {path} && sudo rndc reload {domain}")
        eventually(lambda: dig(host, secondary, f"notified.{domain}", "TXT") == ['"here"'], 10)
        # What changed was sent, not the zone.
        sent = primary.check_output("sudo journalctl --no-pager --quiet --unit=named --since=-30s --grep=%s", f"'{domain}/IN': .*started")
        assert "IXFR started: TSIG" in sent
        assert "AXFR started" not in sent
    finally:
        back = f"s/ {serial} 300 60 / {serial + 2} 300 60 /; s/ serial {serial}$/ serial {serial + 2}/"
        primary.check_output(f"sudo mv {path}.kept {path} && sudo sed -i '{back}' {path} && sudo systemctl reload named")
    eventually(lambda: dig(host, secondary, f"notified.{domain}", "TXT") == [], 10)


def test_changes_by_strangers_are_refused(host, rack):
    update = f"server {servers(rack)[1]}\\nzone {rack['rack_domain']}\\nupdate add stray.{rack['rack_domain']} 60 A 192.0.2.1\\nsend\\n"
    answer = host.run(f"printf '{update}' | nsupdate -t 3")
    assert answer.rc != 0
    assert "REFUSED" in answer.stderr
    assert dig(host, servers(rack)[1], f"stray.{rack['rack_domain']}") == []


def test_does_not_tell_its_version(host, rack):
    for server in servers(rack)[1:]:
        assert dig(host, server, "version.bind", "CH", "TXT") == []


def test_says_no_more_than_it_was_asked(host, rack):
    """Answers that are small make nobody's flood larger."""
    for server in servers(rack)[1:]:
        answer = host.check_output(f"dig +time=2 +tries=1 @{server} {rack['rack_nodes'][0]['fqdn']}")
        assert "ANSWER: 1, AUTHORITY: 0, ADDITIONAL: 1" in answer  # the pseudo-record of EDNS


FLOOD = """
import select, time
socks, got, question = [], 0, bytes.fromhex("{question}")
for _ in range({count}):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.connect(("{server}", 53))
    one.send(question)
    socks.append(one)
deadline = time.monotonic() + 2
while socks and (ready := select.select(socks, [], [], max(0, deadline - time.monotonic()))[0]):
    for one in ready:
        got += not one.recv(2048)[2] & 2  # whole, and not only a hint to ask over TCP
        socks.remove(one)
print(json.dumps(got))
"""


def test_does_not_help_to_flood_anyone(host, rack, python):
    """Who asks the same thing again and again, under an address that may be forged, gets an answer to some of it."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in f"ara.{rack['rack_domain']}".split("."))
    question = (bytes.fromhex("002a00000001000000000000") + name + bytes.fromhex("0000010001")).hex()
    for server in servers(rack)[1:]:
        answered = python(host, FLOOD.format(question=question, count=900, server=server))
        assert 0 < answered < 900


def test_strangers_on_a_server_read_neither_keys_nor_zones(node, rack):
    for server in rack["rack_lanservices"]:
        there = node(server["name"])
        for path in there.check_output("sudo find /etc/bind /var/lib/bind -name '*.key' -o -name '*.zone'").splitlines():
            assert there.run(f"sudo -u nobody cat {path}").rc != 0, path
