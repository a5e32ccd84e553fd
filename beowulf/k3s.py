"""What a person does with k3s beside a deploy: a node leaves, a snapshot is taken, the cluster goes back to one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from beowulf import lock, playbook
from beowulf.errors import Refusal

if TYPE_CHECKING:
    from beowulf.cluster import Cluster


def change(cluster: Cluster, task: str, name: str, variables: dict[str, str] | None = None) -> None:
    """Run a playbook of k3s while nobody else changes the cluster. Raises Refusal where there is no k3s, Failure when the run fails."""
    if not cluster.variables["rack_k3s_servers"]:
        raise Refusal(f"{task} {cluster.name}: no node of {cluster.path.name} says `k3s: server`.")
    with lock.changing(cluster, task):
        code, summary = playbook.run(playbook.command(cluster, name), task, variables=variables)
    playbook.conclude(task, cluster, code, summary)


def remove(cluster: Cluster, node: str) -> None:
    """Take a node out of k3s, also one that is dead, or in the rack file no more."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", node):
        raise Refusal(f"k3s.remove: {node!r} is no name of a node.")
    change(cluster, "k3s.remove", "k3s_remove", {"k3s_leaver": node})


def snapshot(cluster: Cluster) -> None:
    """Keep one moment's state of the datastore on this controller, encrypted."""
    change(cluster, "k3s.snapshot", "k3s_snapshot")


def restore(cluster: Cluster, file: str) -> None:
    """Go back to a snapshot; what was done after it is gone."""
    place = Path(file).expanduser().absolute()
    if not place.is_file():
        raise Refusal(f"k3s.restore: there is no file {place}.")
    change(cluster, "k3s.restore", "k3s_restore", {"k3s_snapshot": str(place)})
