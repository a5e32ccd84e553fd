"""Configurations that somebody broke by hand, and a change of both LAN servers: nothing is down meanwhile."""

import time

from beowulf import deploy
from beowulf.drill import VIP, Figure, Lab, drill
from beowulf.errors import Failure


def site(lab: Lab, *options: str) -> dict:
    """Deploy the LAN servers; return the summary."""
    command = deploy.playbook(lab.cluster, "site", options=["--limit=lanservices", *options])
    code, summary = deploy.run_playbooks(command, "drill", quiet=True)
    if code or summary is None:
        raise Failure(f"the deploy failed ({code})")
    return summary


@drill("17")
def broken_configuration(lab: Lab):
    """Somebody spoils the files of the name server and the DHCP server; the next deploy repairs them, and the running ones never stop"""
    for node in lab.pair:
        lab.run(node, "echo 'this is no configuration {' >> /etc/bind/named.conf.local; echo '{ no json' > /etc/kea/kea-dhcp4.conf")
    with lab.watching(lab.asks_vip(), lab.looks_up(), lab.leases()) as watch:
        changed = deploy.counts(site(lab, "--tags=dns,dhcp"))["changed"]
    yield Figure("files repaired", changed, 4, unit="", least=True)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("longest gap in DNS", watch.gap(VIP), 1.5, loose=True)
    yield Figure("longest wait for a new lease", watch.longest("leases"), 30, loose=True)
    for node in lab.pair:
        lab.run(node, "named-checkconf -z >/dev/null")


@drill("32")
def rolling_change(lab: Lab):
    """A deploy changes the configuration of DNS and DHCP on both LAN servers; they are never both away"""
    before = {node: lab.leased(node) for node in lab.pair}
    with lab.watching(lab.asks_vip(), lab.looks_up(), lab.leases()) as watch:
        changed = deploy.counts(site(lab, "--tags=dns,dhcp", "--extra-vars={dns_ttl: 301, dhcp_pool_lifetime: 301}"))["changed"]
        time.sleep(2)
        site(lab, "--tags=dns,dhcp")
    yield Figure("changes", changed, 3, unit="", least=True)
    yield Figure("failed lookups", watch.failed("lookups"), 0, unit="")
    yield Figure("longest gap in DNS", watch.gap(VIP), 1.5, loose=True)
    yield Figure("longest wait for a new lease", watch.longest("leases"), 30, loose=True)
    yield Figure("leases lost", sum(len(before[node] - lab.leased(node)) for node in lab.pair), 0, unit="")
