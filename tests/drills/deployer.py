"""The deployer: it may be away, and even lost for good; the cluster runs on, and it comes back with all that it knew."""

import time

from beowulf import backup
from beowulf.drill import drill
from beowulf.drill_lab import Lab, unnoticed
from beowulf.figures import Figure
from beowulf.pki import identity

TARGET = 600
"""Seconds for a deployer to be what it was, from the moment that it is missing."""


def recorded(lab: Lab, deployer: str) -> set[int]:
    """Return the numbers of the runs that the deployer's ARA knows, from its database."""
    base = "sqlite3.connect('file:/var/lib/ara/ansible.sqlite?mode=ro', uri=True)"
    shown = lab.run(deployer, f"python3 -c \"import sqlite3; print(*[n for n, in {base}.execute('select id from playbooks')])\"")
    return {int(number) for number in shown.split()}


def authority(lab: Lab, deployer: str) -> str:
    """Return the fingerprints of the authority's keys."""
    return lab.run(deployer, "cd /var/lib/cluster-ca && for key in ssh/*.pub; do ssh-keygen -l -f $key; done; sha256sum tls/root.crt")


@drill()
def lose_deployer(lab: Lab):
    """The deployer is destroyed and comes back from its backup onto a blank machine; nobody on the LAN notices"""
    deployer = lab.variables["rack_deployer"]["name"]
    backup.create(lab.cluster)
    runs, keys = recorded(lab, deployer), authority(lab, deployer)
    kept = lab.cluster.state / "drill-cert.pub"
    kept.write_bytes(identity.own_certificate(lab.cluster).read_bytes())
    try:
        with lab.watching(lab.asks_vip(), lab.looks_up(), lab.leases(), lab.asks_time(lab.pair[0])) as watch:
            lab.podman("rm", "--force", "--time=0", "--volumes", lab.cluster.container(deployer))
            began = time.monotonic()
            # Without what this machine keeps: from a LAN server, as after the loss of both.
            backup.restore(lab.cluster, source=lab.pair[0])
            took = time.monotonic() - began
        yield Figure("back after", took, TARGET, loose=True)
        yield Figure("runs before", len(runs), 1, unit="", least=True)
        yield Figure("runs forgotten", len(runs - recorded(lab, deployer)), 0, unit="")
        yield Figure("keys of the authority that changed", float(authority(lab, deployer) != keys), 0, unit="")
        yield Figure("nodes that refuse an older certificate", sum(not lab.admits(node, kept) for node in lab.address), 0, unit="")
        yield from unnoticed(watch)
        yield Figure("the time not told", watch.failed("time"), 0, unit="")
        yield Figure("longest wait for a new lease", watch.longest("leases"), 30, loose=True)
    finally:
        kept.unlink(missing_ok=True)
