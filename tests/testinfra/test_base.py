"""Every node has its name, its address and its way to packages."""

import pytest

testinfra_hosts = ["ansible://all"]


@pytest.fixture
def own(host, hostvars):
    return hostvars[host.backend.host]


def test_knows_its_name(host, own):
    assert host.check_output("hostname") == own["rack_name"]
    assert host.check_output("hostname --fqdn") == own["rack_fqdn"]


def test_holds_its_address_on_the_interface_with_its_mac(host, own):
    interface = host.check_output(f"ip -oneline link | grep -i {own['rack_mac']} | cut -d: -f2 | cut -d@ -f1").strip()
    assert own["rack_address"] in [address for address in host.interface(interface).addresses if "." in address]


def test_has_the_time_zone_of_the_rack(host, own):
    assert host.check_output("timedatectl show --property=Timezone --value") == own["rack_timezone"]


def test_reaches_the_name_of_every_peer(host, own):
    for peer in own["rack_nodes"]:
        assert host.check_output(f"getent ahostsv4 {peer['name']} | cut -d' ' -f1 | head -n 1") == peer["address"]


def test_takes_packages_through_the_cache(host, own, chosen):
    """Or, where the deployer takes no part and is not there, past it."""
    cache = f"http://{own['rack_deployer']['address']}:3142"
    ways = [cache] if own["rack_deployer"]["name"] in chosen else [cache, "DIRECT"]
    assert host.check_output("/usr/local/lib/beowulf/package-cache") in ways
    update = host.run("sudo apt-get update -o APT::Update::Error-Mode=any")
    assert update.rc == 0, update.stderr


def test_has_no_failed_service(host):
    assert host.check_output("systemctl list-units --state=failed --no-legend --plain") == ""
