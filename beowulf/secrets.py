"""The secrets of a cluster, for the person who runs it: make, show and change them, and ask before a deploy whether they open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from beowulf import cluster as clusters
from beowulf.cluster import Cluster
from beowulf.errors import Refusal

if TYPE_CHECKING:
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretStore


def store_of(cluster: Cluster) -> SecretStore:
    """Return the secrets of a cluster; nothing is read yet."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretStore

    return SecretStore(cluster.state, cluster.rack.cluster)


@contextmanager
def refused() -> Iterator[None]:
    """Turn what is wrong with the secrets into a refusal: nobody did anything yet."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretError

    try:
        yield
    except SecretError as error:
        raise Refusal(str(error)) from error


def preflight(cluster: Cluster) -> None:
    """Open the secrets of a cluster before anything is done with it; on the first run, make them. Refuse what does not open."""
    store = store_of(cluster)
    with refused():
        if new := store.create():
            print(f"secrets of {cluster.name}: {', '.join(new)} generated in {store.file}")
        if halfway := list(store.staged()):
            raise Refusal(
                f"./bootstrap secrets.rotate {halfway[0]} was interrupted, and a part of what {halfway[0]} encrypts may have its new value "
                "already. Say that again, and it goes on where it was. Nothing was touched."
            )


def init(cluster: Cluster) -> None:
    """Make what is missing, and say what was there; values are not shown."""
    store = store_of(cluster)
    with refused():
        new = store.create()
        there = [name for name in store.read() if name not in new]
        place = f"pass, as {store.entry}" if store.is_in_pass() else str(store.password_file)
    print(f"secrets of {cluster.name}: {store.file}, password in {place}")
    for title, names in (("generated", new), ("there before", there)):
        if names:
            print(f"  {title}: {', '.join(names)}")


def show(cluster: Cluster, name: str) -> None:
    """Print one secret, and nothing else."""
    store = store_of(cluster)
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import known

    with refused():
        print(store.get(known(name)))


def passphrases(cluster: Cluster, name: str) -> list[str]:
    """Return what may open things that are encrypted with a secret: its value, and while that changes the coming one, too."""
    store = store_of(cluster)
    with refused():
        return [store.get(name), *(value for key, value in store.staged().items() if key == name)]


def next_step(cluster: Cluster) -> str:
    """Say that the nodes do not know yet."""
    flag = clusters.flag(cluster.name)
    return f"  next: ./bootstrap deploy{flag}, which takes it to the nodes; until then they have the old one"
