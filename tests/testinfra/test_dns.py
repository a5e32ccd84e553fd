"""Both LAN servers answer for the cluster and for the world; the secondary follows the primary."""

import ipaddress
from concurrent.futures import ThreadPoolExecutor

import pytest

testinfra_hosts = ["ansible://compute"]


def servers(rack):
    return [rack["rack_network"]["vip"], *(server["address"] for server in rack["rack_lanservices"])]


def interface_of(host, mac):
    return host.check_output(f"ip -oneline link | grep -i {mac} | cut -d: -f2 | cut -d@ -f1").strip()


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


@pytest.mark.disturbs("lan")
def test_a_change_reaches_the_secondary_by_notify(host, rack, node, eventually):
    """The secondary asks by itself twice a minute: what arrives within seconds came by NOTIFY. The change goes back afterwards."""
    primary = node(rack["rack_dns_primary"]["name"])
    secondary = rack["rack_dns_secondaries"][0]["address"]
    domain, path = rack["rack_domain"], f"/var/lib/bind/{rack['rack_domain']}.zone"
    serial = int(dig(host, secondary, domain, "SOA")[0].split()[2])
    assert dig(host, secondary, f"notified.{domain}", "TXT") == []
    primary.check_output(f"sudo cp --preserve {path} {path}.kept")
    try:
        edit = f"s/ {serial} 30 15 / {serial + 1} 30 15 /; $ a notified TXT here"
        primary.check_output(f"sudo sed -i '{edit}' {path} && sudo rndc reload {domain}")
        eventually(lambda: dig(host, secondary, f"notified.{domain}", "TXT") == ['"here"'], 5)
        # What changed was sent, not the zone.
        sent = primary.check_output("sudo journalctl --no-pager --quiet --unit=named --since=-30s --grep=%s", f"'{domain}/IN': .*started")
        assert "IXFR started: TSIG" in sent
        assert "AXFR started" not in sent
    finally:
        back = f"s/ {serial} 30 15 / {serial + 2} 30 15 /; s/ serial {serial}$/ serial {serial + 2}/"
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


# One name again and again, with at most 100 questions on their way: more than the buffer of a server's socket holds would be lost anywhere.
BURST = """
import select, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("{source}", 0))
one.connect(("{server}", 53))
asked, waiting, told = 0, set(), dict(whole=0, short=0, lost=0)
while asked < {count} or waiting:
    while asked < {count} and len(waiting) < 100:
        one.send(asked.to_bytes(2, "big") + bytes.fromhex("{question}"))
        waiting.add(asked)
        asked += 1
    if select.select([one], [], [], 1)[0]:
        answer = one.recv(2048)
        if (number := int.from_bytes(answer[:2], "big")) in waiting:
            waiting.remove(number)
            told["short" if answer[2] & 2 or not answer[7] else "whole"] += 1
    else:
        told["lost"] += len(waiting)
        waiting.clear()
print(json.dumps(told))
"""


def burst(rack, python, host, server, source):
    """Let a node ask a server 2,000 times as fast as it can, from one of its addresses; count what came back."""
    name = b"".join(bytes([len(label)]) + label.encode() for label in f"ara.{rack['rack_domain']}".split("."))
    question = (bytes.fromhex("01000001000000000000") + name + bytes.fromhex("0000010001")).hex()
    return python(host, BURST.format(question=question, count=2000, server=server, source=source))


@pytest.mark.xdist_group("flood")
def test_a_node_of_the_rack_may_ask_as_fast_as_it_can(host, hostvars, rack, python):
    own = hostvars[host.backend.host]["rack_address"]
    for server in servers(rack):
        assert burst(rack, python, host, server, own) == {"whole": 2000, "short": 0, "lost": 0}, server


@pytest.mark.xdist_group("flood")
def test_does_not_help_to_flood_anyone(host, hostvars, rack, python):
    """Who asks the same thing again and again, under an address that may be forged, gets an answer to some of it."""
    network = rack["rack_network"]
    taken = {network[key] for key in ("vip", "gateway")} | {each["address"] for each in rack["rack_nodes"]}
    taken |= {(rack["rack_lab"] or {}).get("address")}
    pool = range(int(ipaddress.ip_address(network["pool_start"])), int(ipaddress.ip_address(network["pool_end"])) + 1)
    free = (each for each in ipaddress.ip_network(network["subnet"]).hosts() if str(each) not in taken and int(each) not in pool)
    stranger, link = str(next(free)), interface_of(host, hostvars[host.backend.host]["rack_mac"])
    host.check_output(f"sudo ip address add {stranger}/32 dev {link}")
    try:
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(lambda server: burst(rack, python, host, server, stranger), servers(rack)[1:]))
        for told in answers:
            assert told["short"] > 0, told  # asked to come back over TCP, which nobody does under a forged address
            assert 0 < told["whole"] < 2000, told
    finally:
        host.check_output(f"sudo ip address delete {stranger}/32 dev {link}")


def test_strangers_on_a_server_read_neither_keys_nor_zones(node, rack):
    for server in rack["rack_lanservices"]:
        there = node(server["name"])
        for path in there.check_output("sudo find /etc/bind /var/lib/bind -name '*.key' -o -name '*.zone'").splitlines():
            assert there.run(f"sudo -u nobody cat {path}").rc != 0, path


JOURNAL_CUT = "truncate -s 100 {file}.jnl"
JOURNAL_NOISE = "head -c 500 /dev/urandom >{file}.jnl"
UNREADABLE = {
    "journal cut": ("dynamic", JOURNAL_CUT),
    "journal of noise": ("dynamic", JOURNAL_NOISE),
    "file empty": ("dynamic", "truncate -s 0 {file}"),
    "file of noise": ("dynamic", "head -c 500 /dev/urandom >{file}"),
    "nothing there": ("dynamic", "rm {file} {file}.jnl"),
    "static, journal cut": ("zone", JOURNAL_CUT),
    "static, journal of noise": ("zone", JOURNAL_NOISE),
}


def newer(one, other):
    """RFC 1982, section 3.2."""
    return 0 < (one - other) % 2**32 < 2**31


@pytest.mark.disturbs("lan")
@pytest.mark.parametrize("how", UNREADABLE)
def test_a_primary_that_cannot_load_a_zone_begins_again_from_the_others(client, rack, node, eventually, how):
    """As after a power cut; nothing is asked of anybody but to start it. What a server had, both have afterwards."""
    kind, harm = UNREADABLE[how]
    primary = node(rack["rack_dns_primary"]["name"])
    zone = rack["rack_dyn_domain"] if kind == "dynamic" else rack["rack_domain"]
    harm = harm.format(file=f"{zone}.{kind}")
    name = f"kept.{rack['rack_dyn_domain']}" if kind == "dynamic" else rack["rack_nodes"][-1]["fqdn"]

    def said(question, record):
        return [dig(client, server, "+norecurse", question, record) for server in servers(rack)[1:]]

    def change(what):
        update = f"server 127.0.0.1\nzone {rack['rack_dyn_domain']}\nupdate {what}\nsend\n"
        primary.check_output("printf %s | sudo nsupdate -k /etc/bind/update.key", update)

    if kind == "dynamic":
        change(f"add {name} 60 A 192.0.2.7")
    try:
        eventually(lambda: said(name, "A")[0] == said(name, "A")[1] != [], 10)
        had, before = said(name, "A"), int(said(zone, "SOA")[0][0].split()[2])
        # The repair of the start before looks at the files, too, and would have done with them.
        eventually(lambda: primary.check_output("systemctl show --property ActiveState --value dns-zones") != "activating", 30)
        primary.check_output("sudo systemctl stop named")
        try:
            primary.check_output(f"sudo sh -c 'rm -rf /tmp/zones && cp --archive /var/lib/bind /tmp/zones && cd /var/lib/bind && {harm}'")
        finally:
            # Of its own, systemd counts five starts within ten seconds as a loop.
            primary.check_output("sudo sh -c 'systemctl reset-failed named; systemctl start named'")
        try:
            eventually(lambda: said(name, "A") == had, 60)
        except AssertionError:
            primary.check_output("sudo sh -c 'systemctl stop named; cp --archive /tmp/zones/. /var/lib/bind; systemctl start named'")
            raise
        after = eventually(lambda: (found := said(zone, "SOA"))[0] == found[1] and int(found[0][0].split()[2]), 10)
        assert newer(after, before) or (kind == "zone" and after == before)
    finally:
        change(f"delete {name} A") if kind == "dynamic" else None
