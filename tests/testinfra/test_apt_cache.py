"""The package cache serves the LAN, and a package is downloaded once."""

import pytest

testinfra_hosts = ["ansible://apt_cache"]
pytestmark = pytest.mark.xdist_group("apt")


def downloads(deployer, kind):
    """Count the lines of the log about one package: I for what came from outside, O for what went to a node."""
    return int(deployer.check_output(f"sudo grep -c '|{kind}|.*hostname_' /var/log/apt-cacher-ng/apt-cacher.log || :"))


def test_serves_a_package_from_the_cache(host, nodes, node, chosen):
    """What one node has downloaded the next one gets without a download."""
    for name in (one for one in nodes("compute") if one in chosen):
        fetch = "cd /tmp && apt-get download -q hostname && rm -f hostname_*.deb"
        node(name).check_output(fetch)
        before, served = downloads(host, "I"), downloads(host, "O")
        node(name).check_output(fetch)
        assert (downloads(host, "I"), downloads(host, "O")) == (before, served + 1), name


CACHE = "/var/cache/apt-cacher-ng"
UNUSED = "debrep/pool/main/b/beowulf-unused/beowulf-unused_1.0_all.deb"


def test_packages_that_no_list_names_are_removed_by_a_timer_and_others_stay(host, client):
    """An unused package is noted first, and goes when that is longer ago than the days that it is kept."""
    deployer = host
    deployer.check_output("systemctl is-enabled apt-cache-expire.timer")
    client.check_output("sudo apt-get update -q && cd /tmp && apt-get download -q hostname && rm -f hostname_*.deb")
    used = deployer.check_output(f"find {CACHE} -name 'hostname_*.deb' | head -n 1")
    place = f"{CACHE}/{UNUSED}"
    try:
        plant = f"mkdir -p {place.rpartition('/')[0]} && cp {used} {place} && cp {used}.head {place}.head"
        deployer.check_output("sudo -u apt-cacher-ng sh -c %s", plant)
        deployer.check_output("sudo systemctl start apt-cache-expire")
        # Kept at first, and on the list.
        deployer.check_output(f"test -e {place} && grep -q beowulf-unused {CACHE}/_expending_dat")
        old = int(deployer.check_output("date +%s")) - 30 * 86400
        deployer.check_output(f"sudo sed -i '/beowulf-unused/s/^[0-9]*/{old}/' {CACHE}/_expending_dat")
        deployer.check_output("sudo systemctl start apt-cache-expire")
        assert deployer.run(f"test -e {place}").rc == 1, deployer.check_output(f"cat {CACHE}/_expending_dat")
        deployer.check_output(f"test -e {used}")
    finally:
        deployer.check_output(f"sudo rm -rf {place.rpartition('/')[0]}")


def test_nobody_on_the_lan_can_have_packages_removed(host, rack, client):
    deployer = rack["rack_deployer"]
    page = host.check_output("sudo sed -n 's/^ReportPage: //p' /etc/apt-cacher-ng/zz_maintenance.conf")
    ask = "import sys, urllib.request as r\ntry: print(r.urlopen(sys.argv[1], timeout=10).status)\nexcept r.HTTPError as e: print(e.code)"
    for name, code in ((f"{page}?doExpire=Start+Scan+and%%2For+Expiration", "401"), ("acng-report.html", "503")):
        url = f"http://{deployer['address']}:3142/{name.replace('%%', '%')}"
        assert client.check_output("python3 -c %s %s", ask, url) == code
    assert host.run("sudo -u nobody cat /etc/apt-cacher-ng/zz_maintenance.conf").rc != 0
