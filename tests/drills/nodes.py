"""The nodes of the rack: one more is put in, and a board is replaced under its name; one deploy takes either in."""

import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from beowulf.drill import drill
from beowulf.drill_lab import Lab, unnoticed
from beowulf.errors import Failure
from beowulf.figures import Figure
from beowulf.process import tool

TARGET = 240
"""Seconds that one deploy may take to have a new board among the nodes."""
SPARE_MAC = "b8:27:eb:00:00:fe"


def rack_with(lab: Lab, node: str, **changes: str) -> AbstractContextManager[Path]:
    """Give the path of a rack file in which a compute node is new, or has other values, while the body runs."""
    return lab.other_rack(lambda said: said["nodes"].update({node: {"type": "compute", **said["nodes"].get(node, {}), **changes}}))


def playing(path: Path, name: str) -> list[str]:
    """Return the command that runs a playbook by a rack file."""
    return [tool("ansible-playbook"), "-i", str(path), f"playbooks/{name}.yml"]


def played(lab: Lab, path: Path, name: str) -> float:
    """Run a playbook by a rack file; return the seconds it took. Raises Failure with what went wrong."""
    began = time.monotonic()
    code, summary = lab.play(playing(path, name))
    if code:
        failures = [f"{one['node']}: {one['task']}: {' '.join(one['lines'])}" for one in (summary or {}).get("failures", ())]
        raise Failure(f"playbooks/{name}.yml ended with {code}: {'; '.join(failures) or 'no summary'}")
    return time.monotonic() - began


def take_out(lab: Lab, node: str) -> None:
    """Take a board out of the rack: its power, its card, and what is known of its key."""
    lab.podman("rm", "--force", "--time=0", "--volumes", lab.cluster.container(node))
    (lab.cluster.state / "ssh" / "known_hosts.d" / node).unlink(missing_ok=True)


def answers_for(lab: Lab, node: str, address: str) -> int:
    """Count the LAN servers that know the name of a node in both directions."""
    questions = [f"{node}.{lab.domain}"], ["-x", address]
    told = [
        [lab.run(lab.client, shlex.join(["dig", "+short", *question, f"@{lab.address[server]}"])) for question in questions]
        for server in lab.pair
    ]
    return told.count([address, f"{node}.{lab.domain}."])


def works(lab: Lab, node: str, address: str) -> Iterator[Figure]:
    """Yield whether a node has its place: its lease, its names, and its rank among the others'."""
    lease = lab.kea(lab.dhcp_server(), "lease4-get", **{"ip-address": address, "subnet-id": 1})
    yield Figure("its reservation is leased", float(lease.get("result") == 0), 1, unit="", least=True)
    yield Figure("LAN servers that know its names", answers_for(lab, node, address), len(lab.pair), unit="", least=True)
    ranks = lab.run(lab.client, f"sudo -iu mpi mpiexec -hosts {lab.client},{node} -ppn 1 -n 2 uname -n").split()
    yield Figure("ranks beside another node's", float(sorted(ranks) == sorted([lab.client, node])), 1, unit="", least=True)


@drill()
def add_node(lab: Lab):
    """A node more is put into the rack: one deploy from here has it in its place, and nobody notices; then it is taken out again"""
    node = "drilled"
    taken = {int(str(one).rsplit(".", 1)[1]) for one in lab.address.values()}
    network = str(lab.cluster.rack.nodes[lab.client].address).rsplit(".", 1)[0]
    address = next(f"{network}.{number}" for number in range(int(lab.address[lab.client].rsplit(".", 1)[1]), 200) if number not in taken)
    try:
        with rack_with(lab, node, address=address, mac=SPARE_MAC) as rack:
            played(lab, rack, "lab")
            with lab.watching(lab.asks_vip(), lab.looks_up()) as watch:
                yield Figure("deployed after", played(lab, rack, "site"), TARGET, loose=True)
            yield from works(lab, node, address)
            yield from unnoticed(watch)
    finally:
        take_out(lab, node)
        played(lab, lab.cluster.path, "site")


@drill()
def replace_board(lab: Lab):
    """A board takes the place of another one under its name: the deployer deploys it, and this controller the next one"""
    node = next(name for name in reversed(lab.cluster.group("mpi")) if name != lab.client)
    address, deployer = lab.address[node], lab.variables["rack_deployer"]["name"]
    file = f"/srv/beowulf/inventory/{lab.cluster.path.name}"
    try:
        with rack_with(lab, node, mac=SPARE_MAC) as rack:
            take_out(lab, node)
            played(lab, rack, "lab")
            lab.run(deployer, f"cat >{file}.new <<'END'\n{rack.read_text(encoding='utf-8')}END\nmv {file}.new {file}; chown admin: {file}")
            began = time.monotonic()
            deploying = "su -l admin -c 'cd /srv/beowulf && ./bootstrap deploy' 2>&1 | tail -n 12 >&2"
            lab.run(deployer, shlex.join(["bash", "-o", "pipefail", "-c", deploying]), limit=900)
            yield Figure("deployed by the deployer after", time.monotonic() - began, TARGET, loose=True)
            yield from works(lab, node, address)
    finally:
        lab.run(deployer, f"su -l admin -c 'cd /srv/beowulf && git checkout --quiet {file}'", check=False)
        take_out(lab, node)
        played(lab, lab.cluster.path, "lab")
        took = played(lab, lab.cluster.path, "site")
    yield Figure("deployed by this controller after", took, TARGET, loose=True)
    yield from works(lab, node, address)
