"""Who this controller is to the CA, and where the CA is."""

from __future__ import annotations

import os
import pwd
import re
import socket
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

from beowulf import ssh
from beowulf.cluster import is_own
from beowulf.errors import Refusal

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
FOLDER = "/var/lib/cluster-ca"
"""Folder of the authority on the deployer: ca_folder of roles/ca."""
CONNECT = 2
"""Seconds for a deployer that does not answer: what was signed here is told to it later."""


def own_key(cluster: Cluster) -> Path:
    """Return the private key with which this controller comes in."""
    return Path(cluster.variables["rack_ssh_private_key"])


def own_certificate(cluster: Cluster) -> Path:
    """Return where this controller keeps its certificate."""
    return cluster.state / "ssh" / "id_ed25519-cert.pub"


def own_name() -> str:
    """Return the name in this controller's certificate, as certificate_of_controller of inventory/group_vars/all/ca.yml says it, too."""
    return f"{pwd.getpwuid(os.geteuid()).pw_name}@{socket.gethostname()}"


def insist_on_own_name(cluster: Cluster) -> None:
    """Refuse a controller with the host name of a node: it would be given certificates in that node's name, and be revoked with it."""
    name = socket.gethostname()
    if name in cluster.rack.nodes and not is_own(str(cluster.rack.nodes[name].address)):
        raise Refusal(
            f"This machine is called {name}, as a node of {cluster.name} is, so that its certificate would have the name of one of that "
            "node's. Give this machine another name (hostnamectl hostname), or the node in the rack file."
        )


def on_authority(cluster: Cluster, script: str, timeout: float) -> CompletedProcess[str]:
    """Run a shell script as root on the authority."""
    return ssh.run(cluster, cluster.variables["rack_deployer"]["name"], script, root=True, may_ask=True, timeout=timeout)


def node_named(cluster: Cluster, name: str) -> str:
    """Return the node in a name, if it is one: that of gamma, host-gamma and mpi@gamma is gamma."""
    if name in cluster.rack.nodes:
        return name
    return name.rpartition("@")[2] if "@" in name else name.removeprefix("host-")
