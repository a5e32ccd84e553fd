"""What the LAN has seen: the leases of machines that the rack file does not know, from the DHCP servers into the deployer's Redis.

There the inventory plugin finds them, as the group `discovered` (collections/…/plugin_utils/rack_registry.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ansible_collections.beowulf.cluster.plugins.module_utils import kea_control
from beowulf import kea, lock, ssh
from beowulf.errors import Failure, Refusal

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

KEPT = 3600
"""Seconds until what nobody fills in again is forgotten; the deployer does so every ten minutes."""
LIMIT = 10.0
LARGEST = 16 << 20
"""Bytes of leases that a server may answer with."""
# What is used of a lease, and its type: a server says these things, and what it says may be anything.
PARTS = {"hw-address": str, "ip-address": str, "hostname": str, "cltt": int}


def leases(text: str) -> list[dict[str, Any]] | None:
    """Return the leases in Kea's answer to `lease4-get-all`, without what is none; None when it is no answer."""
    try:
        answer = json.loads(text)
        if answer["result"] not in (kea_control.DONE, kea_control.EMPTY):
            return None
        # State 0: neither declined nor reclaimed.
        return [
            one
            for one in answer.get("arguments", {}).get("leases", [])
            if one.get("state") == 0
            and all(isinstance(one.get(part, kind()), kind) for part, kind in PARTS.items())
            and "ip-address" in one
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def strangers(found: Iterable[Mapping[str, Any]], known: Iterable[str]) -> dict[str, str]:
    """Return the leases of machines that are not known, as {MAC address: JSON}; of several the one that was given last."""
    known = set(known)
    newest: dict[str, Mapping[str, Any]] = {}
    for one in found:
        mac = one.get("hw-address", "").lower()
        if mac and mac not in known and one.get("cltt", 0) >= newest.get(mac, one).get("cltt", 0):
            newest[mac] = one
    return {mac: json.dumps({"address": one["ip-address"], "hostname": one.get("hostname", ""), "seen": one.get("cltt", 0)})
            for mac, one in newest.items()}  # fmt: skip


def ask(cluster: Cluster, node: str) -> list[dict[str, Any]] | None:
    """Return the leases that a DHCP server knows of; None when it does not answer."""
    return leases(ssh.run(cluster, node, kea.question("lease4-get-all"), root=True, timeout=LIMIT, limit=LARGEST).stdout)


def password() -> str | None:
    """Return the password of Redis, from where the inventory plugin takes it."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils import password_file

    if given := os.environ.get("BEOWULF_REGISTRY_PASSWORD"):
        return given
    path = os.environ.get("BEOWULF_REDIS_PASSWORD_FILE")
    try:
        return password_file.read(path) if path else None
    except password_file.PasswordFileError as error:
        raise Refusal(str(error)) from error


def fill(cluster: Cluster) -> None:
    """Ask the DHCP servers for the leases of strangers and put them into Redis, in the place of what was there.

    Left for the next time while somebody changes the cluster: its servers may be between two states.
    """
    from redis import Redis, RedisError

    if not cluster.rack.registry:
        raise Refusal(f"{cluster.path.name} names no registry. The deployer's own is `registry: redis://127.0.0.1:6379/0`.")
    secret = password()
    try:
        # Looked for and not held: nothing here changes the cluster, and a timer must not refuse a person's deploy.
        with lock.changing(cluster, "registry.fill"):
            pass
    except lock.Busy as busy:
        print(f"{busy} The registry stays as it is until then.")
        return
    servers = cluster.group("dhcp")
    with ThreadPoolExecutor(max_workers=len(servers)) as pool:
        answers = list(pool.map(lambda node: ask(cluster, node), servers))
    if not (there := [one for one in answers if one is not None]):
        raise Failure(f"Neither {' nor '.join(servers)} says which leases there are: ./bootstrap status")
    # Each server knows the leases of the other one, or what it gave while it was alone.
    found = strangers((lease for one in there for lease in one), (str(node.mac) for node in cluster.rack.nodes.values()))
    key = f"beowulf:{cluster.rack.cluster}:leases"
    try:
        limits = {"socket_timeout": 5, "socket_connect_timeout": 5}
        with Redis.from_url(cluster.rack.registry, password=secret, **limits) as client, client.pipeline() as changes:
            changes.delete(key)
            if found:
                changes.hset(key, mapping=found)
                changes.expire(key, KEPT)
            changes.execute()
    except RedisError as error:
        raise Failure(f"The registry {cluster.rack.registry} does not take them: {error}") from error
    print(f"registry of {cluster.name}: {len(found)} machine{'' if len(found) == 1 else 's'} that the rack file does not know")
