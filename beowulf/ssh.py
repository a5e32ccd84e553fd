"""Reach the nodes over SSH: the one place for the options of ssh, and for how a command is quoted for the shell of a node."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

from beowulf.process import output

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

BATCH = ("-o", "BatchMode=yes", "-o", "LogLevel=ERROR")
"""No question to a person, and nothing said but errors."""
FRESH = ("-o", "ControlPath=none")
"""A connection of its own, which ends with the command."""


def way(cluster: Cluster, node: str) -> list[str]:
    """Return the SSH command that reaches a node as Ansible does; its last word is the address."""
    variables = cluster.variables
    # ssh believes nobody when it is told of a list and there is none.
    revoked = Path(variables["rack_state_dir"]) / "ca" / "revoked.krl"
    return [
        "ssh", "-i", variables["rack_ssh_private_key"], "-l", variables["rack_ssh_user"],
        "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=4",
        # A node that loses its power says nothing: after half a minute of silence it counts as gone.
        "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3",
        "-o", f"UserKnownHostsFile={variables['rack_state_dir']}/ssh/known_hosts",
        "-o", f"GlobalKnownHostsFile={variables['rack_state_dir']}/ca/known_hosts",
        "-o", f"CertificateFile={variables['rack_state_dir']}/ssh/id_ed25519-cert.pub",
        "-o", f"HostKeyAlias={node}.{cluster.rack.domain}",
        *(["-o", f"RevokedHostKeys={revoked}"] if revoked.is_file() else []),
        str(cluster.rack.nodes[node].address),
    ]  # fmt: skip


def connect_within(seconds: int) -> tuple[str, str]:
    """Return the option for a node that may not answer."""
    return "-o", f"ConnectTimeout={seconds}"


def remote(argv: str | Sequence[str], root: bool = False) -> str:
    """Return what the shell of a node is given: the words of `argv`, or a text that is a program of that shell; as root, if asked."""
    if isinstance(argv, str):
        return f"sudo -n sh -c {shlex.quote(argv)}" if root else argv
    return shlex.join(["sudo", "-n", *argv] if root else argv)


def command(
    cluster: Cluster, node: str, argv: str | Sequence[str], root: bool = False, options: Sequence[str] = (), may_ask: bool = False
) -> list[str]:
    """Return the command that runs another one on a node: `argv` as in `remote`.

    Of two `options` ssh takes the first, and these come before those that every connection has. With `may_ask` ssh may ask the person at
    the terminal for what it lacks, as the passphrase of a key; without, it fails.
    """
    program, *rest = cluster.ssh(node)
    return [program, *options, *(() if may_ask else BATCH), *rest, remote(argv, root)]


def run(
    cluster: Cluster, node: str, argv: str | Sequence[str], root: bool = False, options: Sequence[str] = (), may_ask: bool = False,
    text: str | bytes = "", timeout: float = 60, limit: int = 0,
) -> CompletedProcess[str]:  # fmt: skip
    """Run a command on a node, with `text` as its input, and return what it said; limits and failures are those of process.output."""
    return output(command(cluster, node, argv, root, options, may_ask), timeout=timeout, text=text, limit=limit)


def rsync(cluster: Cluster, node: str) -> tuple[str, str]:
    """Return what rsync calls for a connection to a node, and the address that it gives it."""
    *words, address = cluster.ssh(node)
    return shlex.join(words), address


def hang_up(cluster: Cluster, node: str, options: Sequence[str]) -> None:
    """End the connection that `options` keep open for a node."""
    program, *rest = cluster.ssh(node)
    output([program, "-O", "exit", *options, *rest], timeout=5)


def close(socket: Path) -> None:
    """End the connection that is kept open behind a control socket, whichever node it leads to."""
    output(["ssh", "-S", str(socket), "-O", "exit", "node"], timeout=5)
