"""Read what nodes answer about their health."""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible_collections.beowulf.cluster.plugins.module_utils import health, kea_control
from beowulf.health import queries


def addresses(text: str) -> set[str]:
    """Return the addresses in the output of `ip -brief address`."""
    return {word.split("/")[0] for line in text.splitlines() for word in line.split()[2:] if "." in word}


def clock_offset(text: str) -> float | None:
    """Return the seconds a clock is off, from `chronyc -c tracking`; None while it is not synchronised."""
    found = health.clock(text)
    return found[0] if found else None


def ha_state(text: str) -> str | None:
    """Return the state of a Kea server in its pair, from the answer to `status-get`."""
    try:
        return kea_control.pair(json.loads(text)["arguments"])[0]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def watch(text: str) -> dict[str, Any] | None:
    """Return what a watch of roles/dhcp has written to its file, an object with the time at which it looked; None for anything else."""
    try:
        found = json.loads(text)
        return found if number(str(found["looked"])) is not None and isinstance(found["problem"], str) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def foreign(found: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Return the foreign DHCP servers that a node has found on the LAN: their address, MAC, and what they offer."""
    told = (found or {}).get("strangers")
    texts = ("server", "mac", "offers")
    listed = told if isinstance(told, list) else []
    return [one for one in listed if isinstance(one, dict) and all(isinstance(one.get(text), str) for text in texts)]


def trust(text: str) -> dict[str, Any]:
    """Return what a node shows others and what it knows to be revoked, from the answer to TRUST_ASK.

    {"certificates": [{"path", "first", "last"}, …] in seconds since 1970, of a chain the one that ends first; "revoked": {path: sum}}
    """
    certificates: list[dict[str, Any]] = []
    revoked = {}
    path, first = "", 0.0
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "file":
                path = rest
            elif word == "Valid:" and rest.startswith("from "):
                times = [datetime.fromisoformat(part).replace(tzinfo=UTC).timestamp() for part in rest.split()[1::2]]
                certificates.append({"path": path, "first": times[0], "last": times[1]})
            elif rest.startswith("Before:"):
                first = ssl.cert_time_to_seconds(rest.partition(":")[2].strip())
            elif rest.startswith("After :"):
                certificates.append({"path": path, "first": first, "last": ssl.cert_time_to_seconds(rest.partition(":")[2].strip())})
            elif rest.strip() in (queries.KRL, queries.AUTHORITY_KRL):
                revoked[rest.strip()] = word
        except (ValueError, IndexError):
            continue
    ends: dict[str, dict[str, Any]] = {}
    for one in certificates:
        if one["path"] not in ends or one["last"] < ends[one["path"]]["last"]:
            ends[one["path"]] = one
    return {"certificates": list(ends.values()), "revoked": revoked}


def k3s_nodes(text: str) -> dict[str, dict[str, Any]] | None:
    """Return the nodes that a server of k3s knows: {name: {"version": of the running kubelet, "ready": bool}}; None when it is down."""
    rows = [line.split() for line in text.splitlines()]
    if ["down"] in rows:
        return None
    return {row[0]: {"version": row[1], "ready": row[2:] == ["True"]} for row in rows if len(row) > 1}


def disks(text: str) -> dict[str, int]:
    """Return how full the file systems of a node are, from DISKS_ASK: {mount point: per cent of its bytes or of its files}."""
    full = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        shares = [int(share.rstrip("%")) for share in words[-2:] if share.rstrip("%").isdecimal()]
        if shares and words[:-2]:
            full[" ".join(words[:-2])] = max(shares)
    return full


def tasks(text: str) -> dict[str, dict[str, float | None]]:
    """Return the tasks that the deployer does by itself, from the answer to TASKS_ASK: {name: {"since", "good"}} in seconds since 1970."""
    found = {}
    for line in text.splitlines():
        name, times, good = (*line.split(), "", "", "")[:3]
        born, changed = (number(one) for one in (*times.split(":"), "")[:2])
        if born is not None and changed is not None:
            # Not every file system knows when a file was made.
            found[name] = {"since": born or changed, "good": number(good)}
    return found


def number(text: str) -> float | None:
    """Return the number that a text begins with; None without one."""
    try:
        value = float((text.split() or [""])[0])
    except ValueError:
        return None
    return value if math.isfinite(value) else None
