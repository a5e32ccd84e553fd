"""Before the first deploy to real machines: this controller's key, and the host keys by which it knows them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from beowulf.cluster import Cluster
from beowulf.errors import Failure, Refusal
from beowulf.pki import identity
from beowulf.process import ROOT, output


def preflight(cluster: Cluster, nodes: Iterable[str] = (), check: bool = False) -> None:
    """Refuse what could not end well, before any node is asked: without a key, or with nodes that nobody has vouched for.

    A key that was not named in the rack file is made, unless this is a check. `nodes` are those of a run that is limited to some.
    """
    problems = key_problems(cluster, check)
    wanted = needed(cluster, nodes)
    if unknown := [name for name in wanted if not is_known(cluster, name)]:
        known_hosts = shown(cluster.state / "ssh" / "known_hosts")
        problems += [
            f"{len(unknown)} of {len(wanted)} nodes have no host key in {known_hosts}, and what the network says of them is not believed:",
            *(f"  {name}: no line of {fqdn(cluster, name)}" for name in unknown),
            "A line is that name and the first two words of /etc/ssh/ssh_host_ed25519_key.pub, from the node's card or its console;",
            "the comments in inventory/example.rack.yml say how, also for a card that never ran.",
        ]
    if problems:
        raise Refusal("\n".join([f"{cluster.name} cannot be set up yet, and nothing was sent to any node.", *problems]))


def key_problems(cluster: Cluster, check: bool) -> list[str]:
    """Look for the key with which this controller comes in; make the one that was not named in the rack file."""
    key = identity.own_key(cluster)
    public = key.with_name(f"{key.name}.pub")
    if public.is_file():
        return []
    if key.is_file():
        return [f"The public half of {shown(key)} is missing: ssh-keygen -y -f {shown(key)} >{shown(public)}"]
    if cluster.rack.ssh.private_key:
        return [f"There is no key {shown(key)}: correct ssh.private_key in {cluster.path.name}, or ssh-keygen -t ed25519 -f {shown(key)}"]
    if check:
        return [f"There is no key {shown(key)}; a deploy without --check makes it."]
    make_key(cluster, key)
    return [
        f"There was no SSH key for this cluster; here is the public half of the new one, {shown(key)}:",
        f"  {public.read_text(encoding='ascii').strip()}",
        f"Give it to the user {cluster.rack.ssh.user} of every board, in Raspberry Pi Imager or as a line of ~/.ssh/authorized_keys on the "
        "card. Then run the same command again.",
    ]


def make_key(cluster: Cluster, key: Path) -> None:
    """Make this controller's pair of keys, in folders that nobody else may enter."""
    for folder in (cluster.state.parent, cluster.state, key.parent):
        folder.mkdir(mode=0o700, exist_ok=True)
    comment = f"controller of {cluster.rack.cluster} on {socket.gethostname()}"
    result = output(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(key)])
    if result.returncode:
        raise Failure(f"ssh-keygen does not make {key}: {result.stderr.strip() or result.stdout.strip()}")


def needed(cluster: Cluster, nodes: Iterable[str]) -> list[str]:
    """Return the nodes that a run has to reach: its own, or all of them, and those that it asks on their behalf."""
    chosen = set(nodes) or set(cluster.rack.nodes)
    asked = {cluster.variables["rack_router"]["name"], cluster.variables["rack_deployer"]["name"]}
    return [name for name in cluster.rack.nodes if name in chosen | asked]


def fqdn(cluster: Cluster, node: str) -> str:
    """Return the name by which ssh looks a node up: HostKeyAlias in inventory/group_vars/all/ansible.yml."""
    return f"{node}.{cluster.rack.domain}"


def is_known(cluster: Cluster, node: str) -> bool:
    """Say whether a node has a host key here, or the cluster's authority vouches for nodes of its domain."""
    files = (cluster.state / "ssh" / "known_hosts", cluster.state / "ca" / "known_hosts")
    return any(has_line(file, fqdn(cluster, node)) for file in files)


def has_line(file: Path, name: str) -> bool:
    """Say whether a file in the format of known_hosts (sshd(8)) has a key for a name, which is not revoked there."""
    # For each line: # Host NAME found: line NUMBER, and CA or REVOKED.
    found = output(["ssh-keygen", "-F", name, "-f", str(file)], timeout=10).stdout.splitlines()
    return any(line.startswith("# Host ") and not line.endswith(" REVOKED") for line in found)


def shown(path: Path) -> str:
    """Return a path as a person at the project's folder would write it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
