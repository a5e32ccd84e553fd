# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that the LAN has seen and the rack file does not know, from the leases that the deployer puts into Redis.

Whatever stands in the registry was said by a stranger: every value is checked, rebuilt and never a template.
"""

from __future__ import annotations

import json
import re
import threading
from ipaddress import IPv4Address
from typing import Any

from ansible_collections.beowulf.cluster.plugins.plugin_utils import rack_values as values
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import Refused
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_schema import Rack

DEADLINE = 1.0
MAX_LEASES = 1000
MAX_LEASE_BYTES = 1024

_SEEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,15}(Z|[+-][0-9]{2}:[0-9]{2})?\Z")


class RegistryDown(Exception):
    """The registry gave no answer; the text says where and why, without any password."""


def fetch_leases(url: str, cluster: str, password: str | None = None, deadline: float = DEADLINE) -> dict[bytes, bytes]:
    """The hash ``beowulf:CLUSTER:leases`` of the Redis at ``url``: MAC address to JSON, both as sent.

    Gives up after ``deadline`` seconds whatever hangs (the name, the connection, the server) and raises `RegistryDown`.
    """
    answer: list[Any] = []
    worker = threading.Thread(target=_ask, args=(url, cluster, password, deadline, answer), daemon=True)
    worker.start()
    worker.join(deadline)
    if not answer:
        raise RegistryDown(f"{url} gives no answer within {deadline:g} s")
    if isinstance(answer[0], BaseException):
        raise RegistryDown(f"{url}: {answer[0]}") from answer[0]
    return answer[0]


def discovered(rack: Rack, leases: dict[bytes, bytes]) -> tuple[dict[str, dict[str, Any]], int]:
    """The strangers among ``leases``: inventory name to variables, and the number of leases that were no leases.

    A node of the rack is no stranger, by its MAC and by its address; an address outside of the subnet is no lease.
    """
    known_macs = {node.mac for node in rack.nodes.values()}
    known_addresses = {node.address for node in rack.nodes.values()} | {rack.network.vip}
    found: dict[str, dict[str, Any]] = {}
    wrong = 0
    for raw_mac, raw_lease in leases.items():
        try:
            mac, lease = values.mac(raw_mac.decode()), _lease(raw_lease)
        except (ValueError, TypeError, KeyError, RecursionError):
            wrong += 1
            continue
        address = lease["address"]
        name = "mac-" + mac.replace(":", "-")
        if mac in known_macs or name in rack.nodes:
            continue
        if address not in rack.network.subnet or address in known_addresses:
            wrong += 1
            continue
        found[name] = {
            "ansible_host": str(address),
            "discovered_address": str(address),
            "discovered_mac": mac,
            "discovered_hostname": lease["hostname"],
            "discovered_seen": lease["seen"],
        }
    return dict(sorted(found.items())), wrong


def _lease(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LEASE_BYTES:
        raise Refused("is too long for a lease")
    lease = json.loads(raw)
    if not isinstance(lease, dict):
        raise Refused("is not a mapping")
    hostname, seen = lease.get("hostname") or None, lease.get("seen")
    if isinstance(seen, str):
        seen = seen if _SEEN.match(seen) else None
    elif isinstance(seen, bool) or not isinstance(seen, int | float) or not 0 <= seen < 2**40:
        seen = None
    try:
        hostname = values.label(hostname.partition(".")[0].lower()) if isinstance(hostname, str) else None
    except Refused:
        hostname = None
    return {"address": IPv4Address(str(lease["address"])), "hostname": hostname, "seen": seen}


def _ask(url: str, cluster: str, password: str | None, deadline: float, answer: list[Any]) -> None:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        limits = {"socket_connect_timeout": deadline, "socket_timeout": deadline, "retry": Retry(NoBackoff(), 0)}
        with Redis.from_url(url, password=password, **limits) as client:
            leases: dict[bytes, bytes] = {}
            for field, value in client.hscan_iter(f"beowulf:{cluster}:leases", count=200):
                leases[field] = value
                if len(leases) >= MAX_LEASES:
                    break
        answer.append(leases)
    except Exception as exc:  # noqa: BLE001  # whatever it is, the inventory goes on without the registry and says why
        answer.append(exc)
