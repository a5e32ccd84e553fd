"""Configurations that somebody broke by hand, and a change of both LAN servers: nothing is down meanwhile."""

import time

import yaml

from beowulf import playbook
from beowulf.drill import drill
from beowulf.drill_lab import Lab, unnoticed
from beowulf.errors import Failure
from beowulf.figures import Figure
from beowulf.process import ROOT, output, tool

ASKED_AGAIN = 5
"""Seconds: a client that asked while the server was started again asks once more after 4 s (RFC 2131 section 4.1)."""


def site(lab: Lab, *options: str) -> dict:
    """Deploy the LAN servers; return the summary."""
    command = playbook.command(lab.cluster, "site", options=["--limit=lanservices", *options])
    code, summary = lab.play(command)
    if code or summary is None:
        raise Failure(f"the deploy failed ({code})")
    return summary


@drill()
def broken_configuration(lab: Lab):
    """Somebody spoils the files of the name server and the DHCP server; the next deploy repairs them, and the running ones never stop"""
    for node in lab.pair:
        lab.run(node, "echo 'this is no configuration {' >> /etc/bind/named.conf.local; echo '{ no json' > /etc/kea/kea-dhcp4.conf")
    with lab.watching(lab.asks_vip(), lab.looks_up(), lab.leases()) as watch:
        changed = playbook.counts(site(lab, "--tags=dns,dhcp"))["changed"]
    yield Figure("files repaired", changed, 4, unit="", least=True)
    yield from unnoticed(watch)
    yield Figure("longest wait for a new lease", watch.longest("leases"), ASKED_AGAIN, loose=True)
    for node in lab.pair:
        lab.run(node, "named-checkconf -z >/dev/null")


@drill()
def rolling_change(lab: Lab):
    """A deploy changes the configuration of DNS and DHCP on both LAN servers; they are never both away"""
    before = {node: lab.leased(node) for node in lab.pair}
    with lab.watching(lab.asks_vip(), lab.looks_up(), lab.leases()) as watch:
        changed = playbook.counts(site(lab, "--tags=dns,dhcp", "--extra-vars={dns_ttl: 301, dhcp_pool_lifetime: 301}"))["changed"]
        time.sleep(2)
        site(lab, "--tags=dns,dhcp")
    yield Figure("changes", changed, 3, unit="", least=True)
    yield from unnoticed(watch)
    yield Figure("longest wait for a new lease", watch.longest("leases"), ASKED_AGAIN, loose=True)
    yield Figure("leases lost", sum(len(before[node] - lab.leased(node)) for node in lab.pair), 0, unit="")


@drill()
def bad_value(lab: Lab):
    """Somebody mistypes the rack file and deploys; it is refused before a node is touched"""
    rack = yaml.safe_load(lab.cluster.path.read_text(encoding="utf-8"))
    rack["nodes"][lab.pair[0]]["address"] = "10.77.0.256"
    name = f"{lab.cluster.name}-mistyped"
    path = lab.cluster.path.with_name(f"{name}.rack.yml")
    count = "journalctl --unit ssh --output cat --no-pager --grep 'Accepted publickey' | wc -l"
    nodes = list(lab.address)
    before = {node: lab.run(node, count) for node in nodes}
    path.write_text(yaml.safe_dump(rack, sort_keys=False), encoding="utf-8")
    try:
        with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
            began = time.monotonic()
            result = output([tool("invoke"), f"--search-root={ROOT}", "deploy", "--cluster", name], timeout=60)
            took = time.monotonic() - began
    finally:
        path.unlink()
    touched = [node for node in nodes if lab.run(node, count) != before[node]]
    yield Figure("refused after", took, 5, loose=True)
    yield Figure(
        "refused with the line and the value", float(result.returncode == 2 and "10.77.0.256" in result.stderr), 1, unit="", least=True
    )
    yield Figure("nodes that were touched", len(touched), 0, unit="")
    yield from unnoticed(watch)
