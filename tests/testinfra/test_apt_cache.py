"""The package cache serves the LAN, and a package is downloaded once."""

testinfra_hosts = ["ansible://compute"]


def test_serves_a_package_from_the_cache(host, rack, node):
    """What one node has downloaded the next one gets without a download: the log says origin (I) once and hits (O) after."""
    deployer = node(rack["rack_deployer"]["name"])
    host.check_output("cd /tmp && apt-get download -q hostname && rm -f hostname_*.deb")
    before = int(deployer.check_output("sudo grep -c '|I|.*hostname_' /var/log/apt-cacher-ng/apt-cacher.log || :"))
    served = int(deployer.check_output("sudo grep -c '|O|.*hostname_' /var/log/apt-cacher-ng/apt-cacher.log || :"))
    host.check_output("cd /tmp && apt-get download -q hostname && rm -f hostname_*.deb")
    assert int(deployer.check_output("sudo grep -c '|I|.*hostname_' /var/log/apt-cacher-ng/apt-cacher.log || :")) == before
    assert int(deployer.check_output("sudo grep -c '|O|.*hostname_' /var/log/apt-cacher-ng/apt-cacher.log || :")) == served + 1
