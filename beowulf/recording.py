"""The recorded runs of a cluster: with ARA on its deployer, or with this machine's own server when that is not to be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from beowulf import ara, ssh
from beowulf import cluster as clusters
from beowulf.errors import Failure
from beowulf.process import environment

if TYPE_CHECKING:
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.recordings import Server
    from beowulf.cluster import Cluster

LIMIT = 2.0
REPORT_LIMIT = 300
# As root, who may read what ARA's user has written; the pages come as a tar archive.
REPORT = """set -e
folder=$(sudo -n -u ara mktemp --directory)
trap 'sudo -n rm -r "$folder"' EXIT
sudo -n /usr/local/sbin/cluster-ara generate "$folder" >&2
sudo -n tar --create --file=- --directory="$folder" .
"""


class Reader(Protocol):
    """A server that can be asked."""

    url: str

    def get(self, path: str) -> Any:
        """Return what it says at `path`; raise OSError or ValueError."""


@dataclass(frozen=True)
class Plain:
    """A server without a login: this machine's own, or whatever ARA_API_SERVER names."""

    url: str
    proxied: bool = False

    def get(self, path: str) -> Any:
        """Return what it says at `path`; raise OSError or ValueError."""
        handlers = [] if self.proxied else [urllib.request.ProxyHandler({})]
        with urllib.request.build_opener(*handlers).open(f"{self.url}{path}", timeout=LIMIT) as response:
            return json.load(response)


def deployers(cluster: Cluster) -> Server:
    """Return the deployer's server; raise NoServerError of plugin_utils/recordings.py when it is not to be had."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils import recordings

    deployer = next(node for node in cluster.rack.nodes.values() if node.type == "deployer")
    return recordings.find(cluster.state, cluster.rack.cluster, str(deployer.address))


def servers(cluster: Cluster) -> list[Reader]:
    """Return the servers that may have runs of a cluster and are there now, the deployer's first."""
    if url := os.environ.get("ARA_API_SERVER"):
        return [Plain(url, proxied=True)]
    found: list[Reader] = []
    with suppress(no_server()):
        found.append(deployers(cluster))
    if local := ara.running():
        found.append(Plain(local[1]))
    return found


def no_server() -> type[Exception]:
    """Return the error of a deployer without a server; imported late, because it takes Ansible with it."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.recordings import NoServerError

    return NoServerError


def embedded(action: Callable[..., Any], *arguments: object) -> Any:
    """Do something with this machine's server."""
    try:
        return action(*arguments)
    except ara.AraError as error:
        raise Failure(f"The server of the recorded runs: {error}") from error


def choose(cluster: Cluster, local: bool) -> Server | None:
    """Return the deployer's server, or None for this machine's own, and say why."""
    if local:
        return None
    try:
        return deployers(cluster)
    except no_server() as error:
        print(f"the runs that this machine has kept; there is no ARA on the deployer: {error}", file=sys.stderr)
        return None


def serve(cluster: Cluster, local: bool = False) -> None:
    """Print the address of the recorded runs; start a server here unless the deployer has one."""
    if server := choose(cluster, local):
        flag = clusters.flag(cluster.name)
        print(f"{server.url}/\n  login: {server.username}, password: ./bootstrap secrets.show ara_admin{flag}\n  authority: {server.ca}")
    else:
        print(embedded(ara.start))


def stop() -> None:
    """Stop this machine's server."""
    print("stopped" if embedded(ara.stop) else "it was not running")


def report(cluster: Cluster, folder: Path, local: bool = False) -> None:
    """Write the recorded runs into a folder, as pages that need no server."""
    if choose(cluster, local):
        deployer = next(name for name, node in cluster.rack.nodes.items() if node.type == "deployer")
        fetch(ssh.command(cluster, deployer, ["sh"], may_ask=True), folder)
    else:
        embedded(ara.report, folder)
    print(folder / "index.html")


def fetch(reach: list[str], folder: Path) -> None:
    """Let the deployer write the pages, and bring them here; `reach` is a command that runs a script there."""
    try:
        made = subprocess.run(reach, input=REPORT.encode(), capture_output=True, check=False, timeout=REPORT_LIMIT, env=environment())
    except subprocess.TimeoutExpired as error:
        raise Failure(f"The pages on the deployer are not ready in {REPORT_LIMIT} s.") from error
    if made.returncode:
        raise Failure(f"The deployer cannot write the pages: {ara.last_line(made.stderr.decode(errors='replace'))}")
    folder.mkdir(parents=True, exist_ok=True)
    unpack(made.stdout, folder)


def unpack(archive: bytes, folder: Path) -> None:
    """Write the files of a tar archive below a folder; tar itself writes nothing outside of it."""
    command = ["tar", "--extract", "--file=-", "--no-same-owner", f"--directory={folder}"]
    done = subprocess.run(command, input=archive, capture_output=True, check=False)
    if done.returncode:
        raise Failure(f"The pages cannot be written: {ara.last_line(done.stderr.decode(errors='replace'))}")
