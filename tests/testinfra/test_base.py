"""Every node has its name, its address and its way to packages."""

import ipaddress
import zoneinfo

import pytest

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import Refused
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_timezones import RENAMED
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_values import timezone

testinfra_hosts = ["ansible://all"]


@pytest.fixture
def own(host, hostvars):
    return hostvars[host.backend.host]


def interface_of(host, own):
    return host.check_output(f"ip -oneline link | grep -i {own['rack_mac']} | cut -d: -f2 | cut -d@ -f1").strip()


def test_knows_its_name(host, own):
    assert host.check_output("hostname") == own["rack_name"]
    assert host.check_output("hostname --fqdn") == own["rack_fqdn"]


def test_holds_its_address_on_the_interface_with_its_mac(host, own):
    interface = interface_of(host, own)
    assert own["rack_address"] in [address for address in host.interface(interface).addresses if "." in address]


# ARP probes: they ask whose an address is, and nobody learns anything from them (RFC 826, RFC 5227 section 2.1.1).
WHO_HAS = """
import struct
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
link.bind(({interface!r}, 0))
own = link.getsockname()[4]
answers = {{address: [] for address in {addresses!r}}}
for address in answers:
    probe = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, own, bytes(4), bytes(6), socket.inet_aton(address))
    link.send(b"\\xff" * 6 + own + b"\\x08\\x06" + probe.ljust(46, b"\\0"))
deadline = time.monotonic() + 2
while (left := deadline - time.monotonic()) > 0:
    link.settimeout(left)
    try:
        frame = link.recv(1500)
    except TimeoutError:
        break
    kind, mac, address = struct.unpack("!H6s4s", frame[20:32])
    known = answers.get(socket.inet_ntoa(address))
    if kind == 2 and known is not None and mac.hex(":") not in known:
        known.append(mac.hex(":"))
print(json.dumps(answers))
"""


def test_every_address_is_that_of_one_machine(client, hostvars, rack, chosen, python):
    """Of a node, of whoever holds the floating address, and of the machine that asks, if it is in the LAN: two would take turns."""
    if client.backend.host not in chosen:
        pytest.skip("there is no compute node to ask from")
    own = hostvars[client.backend.host]
    interface = interface_of(client, own)
    nodes = {one["rack_address"]: one["rack_mac"] for name, one in hostvars.items() if name in chosen and one is not own}
    askers = {line.split()[3].rpartition(":")[0] for line in client.check_output("ss -Hnt state established sport = :22").splitlines()}
    near = [one for one in askers if ipaddress.ip_address(one) in ipaddress.ip_network(rack["rack_network"]["subnet"])]
    addresses = {*(one["rack_address"] for one in hostvars.values()), rack["rack_network"]["vip"], *near} - {own["rack_address"]}
    answers = python(client, WHO_HAS.format(interface=interface, addresses=sorted(addresses)))
    assert {address: macs for address, macs in answers.items() if len(macs) > 1} == {}
    assert {address: answers[address] for address in nodes} == {address: [mac] for address, mac in nodes.items()}


def test_has_the_time_zone_of_the_rack(host, own):
    assert host.check_output("timedatectl show --property=Timezone --value") == own["rack_timezone"]


def test_has_every_time_zone_that_a_rack_file_may_name(host):
    there = set(host.check_output("cd /usr/share/zoneinfo && find * -type f -o -type l").splitlines())
    assert {name for name in zoneinfo.available_timezones() if is_accepted(name)} - there == set()
    assert set(RENAMED.values()) - there == set()


def is_accepted(name):
    try:
        return bool(timezone(name))
    except Refused:
        return False


def test_reaches_the_name_of_every_peer(host, own):
    for peer in own["rack_nodes"]:
        assert host.check_output(f"getent ahostsv4 {peer['name']} | cut -d' ' -f1 | head -n 1") == peer["address"]


@pytest.mark.xdist_group("apt")
def test_takes_packages_through_the_cache(host, own, chosen):
    """Or, where the deployer takes no part and is not there, past it."""
    cache = f"http://{own['rack_deployer']['address']}:3142"
    ways = [cache] if own["rack_deployer"]["name"] in chosen else [cache, "DIRECT"]
    assert host.check_output("/usr/local/lib/beowulf/package-cache") in ways
    update = host.run("sudo apt-get update -o APT::Update::Error-Mode=any")
    assert update.rc == 0, update.stderr


def test_systemd_has_read_every_unit(host):
    """As its file is: what a timer or a socket starts would be the one of before."""
    shown = host.check_output("systemctl show --property=Id,NeedDaemonReload '*'")
    units = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n")]
    assert len(units) > 20
    assert [unit["Id"] for unit in units if unit["NeedDaemonReload"] == "yes"] == []


def test_has_no_failed_service(host):
    assert host.check_output("systemctl list-units --state=failed --no-legend --plain") == ""
