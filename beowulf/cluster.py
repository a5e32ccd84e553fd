"""A cluster as the operator names it: its rack file, its nodes, its state."""

from __future__ import annotations

import socket
from functools import cached_property
from pathlib import Path
from typing import Any

from beowulf import ssh
from beowulf.errors import Refusal
from beowulf.process import ROOT, output

SUFFIX = ".rack.yml"
INVENTORY = ROOT / "inventory"
EXAMPLE = f"example{SUFFIX}"
"""No cluster, but what the rack file of one is copied from."""


def names() -> list[str]:
    """Return the clusters that have a rack file."""
    return sorted(path.name.removesuffix(SUFFIX) for path in INVENTORY.glob(f"*{SUFFIX}"))


def flag(name: str) -> str:
    """Return what a command that a person is told to run needs behind it to be about a cluster; nothing for the lab."""
    return "" if name == "lab" else f" --cluster {name}"


def rack_file(name: str) -> Path:
    """Return the rack file of a cluster."""
    path = INVENTORY / f"{name}{SUFFIX}"
    if path.parent != INVENTORY or not path.is_file():
        from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import nearest

        near = nearest(name, names())
        meant = f" Did you mean {near}?" if near else ""
        raise Refusal(
            f"There is no cluster {name!r}: inventory/{Path(name).name}{SUFFIX} is missing.{meant} There are: {', '.join(names())}."
        )
    return path


def check_name(path: Path, cluster: str) -> None:
    """Refuse a rack file that has not the name of its cluster: commands go by the one, the state and the deployer by the other."""
    if path.name != f"{cluster}{SUFFIX}":
        raise Refusal(
            f"{path.name} says `cluster: {cluster}`, and a rack file is named after its cluster. Say `cluster: "
            f"{path.name.removesuffix(SUFFIX)}` there, or copy it: cp inventory/{path.name} inventory/{cluster}{SUFFIX}"
        )


def load_rack(path: Path, placed: bool = False) -> Any:
    """Return the checked rack of a file; refuse it with all of its problems, and if it is `placed`, one that is where nothing could run."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils import rack

    try:
        found = rack.load_rack(path)
        if placed:
            rack.check_place(found)
    except rack.RackError as error:
        count = len(error.problems)
        head = f"The rack file is refused, it has {count} problem{'s' if count > 1 else ''}:"
        raise Refusal("\n".join([head, *map(str, error.problems)])) from error
    return found


def rack_schema() -> dict[str, Any]:
    """Return the JSON Schema of rack files."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils import rack

    return rack.rack_schema()


def is_own(address: str) -> bool:
    """Say whether this machine holds an IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


class Cluster:
    """One cluster: what its rack file says, and what follows from it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = rack_file(name)
        self.rack = load_rack(self.path, placed=True)
        check_name(self.path, self.rack.cluster)

    @property
    def is_lab(self) -> bool:
        """Say whether the nodes are containers on this machine; on a node of the lab itself they are not."""
        return self.rack.lab is not None and not any(is_own(str(node.address)) for node in self.rack.nodes.values())

    @property
    def state(self) -> Path:
        """Return the folder of this cluster's keys and facts."""
        return ROOT / ".beowulf" / self.rack.cluster

    @property
    def facts(self) -> Path:
        """Return the folder of the cached facts, as in ansible.cfg."""
        return ROOT / ".beowulf" / self.name / "facts"

    @cached_property
    def derived(self) -> Any:
        """Return all that the inventory plugin derives: groups, variables of all nodes and of each."""
        from ansible_collections.beowulf.cluster.plugins.plugin_utils import rack

        return rack.derive(self.rack)

    @property
    def variables(self) -> dict[str, Any]:
        """Return what the inventory plugin derives for all nodes."""
        return self.derived.all_vars

    def group(self, name: str) -> list[str]:
        """Return the nodes of a group of the inventory."""
        return self.derived.groups[name]

    def container(self, node: str) -> str:
        """Return the name of a node's container."""
        return f"{self.rack.cluster}-{node}"

    def node(self, name: str) -> str:
        """Return the name of a node, or refuse it."""
        if name not in self.rack.nodes:
            raise Refusal(f"The cluster {self.name} has no node {name!r}. It has: {', '.join(self.rack.nodes)}.")
        return name

    def running_containers(self) -> set[str]:
        """Return the nodes whose containers run."""
        shown = output(["podman", "ps", "--format", "{{.Names}}"], timeout=20).stdout.split()
        return {node for node in self.rack.nodes if self.container(node) in shown}

    def lab_is_up(self) -> bool:
        """Say whether nothing is left for the lab's playbook to do: all nodes run, their host keys are known, this host is plugged in."""
        known = self.state / "ssh" / "known_hosts"
        names = {line.split()[0] for line in known.read_text(encoding="ascii").splitlines()} if known.is_file() else set()
        return (
            is_own(str(self.rack.lab.address))
            and self.running_containers() == set(self.rack.nodes)
            and {f"{node}.{self.rack.domain}" for node in self.rack.nodes} <= names
        )

    def ssh(self, node: str) -> list[str]:
        """Return the SSH command that reaches a node as Ansible does."""
        return ssh.way(self, node)
