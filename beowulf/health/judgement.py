"""What is wrong with a cluster, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.beowulf.cluster.plugins.module_utils import health
from beowulf import backup
from beowulf.health import queries

SKEW = 5.0
"""Seconds by which a node's clock may differ from this machine's, beside the time that the question took."""
FULL = 85
"""Per cent of a file system, in bytes or in files, from which on it is told that it is nearly full."""
SHOWN = 3
STALE = 300
"""Seconds after which a watch that runs several times a minute, or every minute, has not looked for too long."""
POOL_LEFT = 3
"""Addresses left in the pool from which on it is told that there will soon be none."""
PATIENCE = 2 * 86400
"""Seconds after half of its life in which a certificate is renewed, or a quarter of its life where that is less."""
SOON_ROOT = 180 * 86400
"""Seconds before the end of the root of TLS, which lasts until the authority is given new keys."""
LATE = {"backup": 26 * 3600, "certificates": 9 * 3600, "registry": 3600}
"""Seconds after which a task of the deployer is late, when it did not end well: it may fail once, but not twice."""


def judge(state: dict[str, Any]) -> dict[str, Any]:
    """Add who holds the VIP, and all that is not as it should be."""
    nodes, problems = state["nodes"], []
    problems += [f"{name} is down ({node['reason']})" for name, node in nodes.items() if not node["up"]]
    state["vip_holders"] = [name for name, node in nodes.items() if state["vip"] in node.get("addresses", ())]
    if len(state["vip_holders"]) != 1:
        problems.append(f"the VIP {state['vip']} is held by {' and '.join(state['vip_holders']) or 'nobody'}")
    for name in state["lanservices"]:
        if nodes[name]["up"] and not health.pair_works(nodes[name]["dhcp"]):
            problems.append(f"DHCP on {name} is {nodes[name]['dhcp'] or 'down'}")
    for one in {(one["server"], one["mac"]): one for node in nodes.values() for one in node.get("foreign_dhcp", ())}.values():
        problems.append(f"a foreign DHCP server {one['server']} ({one['mac']}) offers addresses on the LAN")
    problems += judge_dhcp(state)
    problems += judge_k3s(state)
    for zone, servers in state["serials"].items():
        silent, differ = health.zone_faults(servers)
        problems += [f"DNS on {name} does not serve {zone}" for name in silent]
        if differ:
            problems.append(f"the servers have different versions of {zone}")
    problems += judge_dynamic(state)
    problems += judge_backups(state)
    for name, node in nodes.items():
        if node["up"] and (fault := health.clock_fault(node["clock"])):
            problems.append(f"the clock of {name} {fault}")
    problems += judge_trust(nodes)
    problems += judge_machines(nodes)
    return {**state, "problems": problems, "healthy": not problems}


def judge_dhcp(state: Mapping[str, Any]) -> list[str]:
    """Return what the watches of the DHCP servers say: what they could not see, what an ended pair waits for, how full the pool is."""
    problems: list[str] = []
    pools = []
    for name in state["lanservices"]:
        node = state["nodes"][name]
        if not node["up"]:
            continue
        for key, what in (("watch", "watch for foreign DHCP servers"), ("pair", "watch over the pair of DHCP servers")):
            found = node.get(key)
            if found is None:
                # One that could not be asked at all is told with all else that could not.
                problems += [f"the {what} on {name} has told nothing yet"] if key not in node.get("unanswered", (key,)) else []
            elif found["problem"]:
                problems.append(f"the {what} on {name} could not look: {found['problem']}")
            elif time.time() - float(found["looked"]) > STALE:
                problems.append(f"the {what} on {name} looked {backup.ago(time.time() - float(found['looked']))} for the last time")
        pair = node.get("pair") or {}
        if isinstance(pair.get("waits"), str) and pair["waits"]:
            problems.append(f"DHCP on {name} has ended its work in the pair, and waits for {pair['waits']}")
        pools.append(pool(pair.get("pool")))
    # Each server knows the leases of both.
    left = [one for one in pools if one]
    if left and min(left)[0] <= POOL_LEFT:
        free, total, declined = min(left)
        told = f", {declined} of them declined by who was to have them" if declined else ""
        problems.append(f"the pool has {free} of {total} addresses left{told}: who takes them? ./bootstrap registry.fill")
    return problems


def pool(found: Any) -> tuple[int, int, int] | None:
    """Return how many addresses a server's pool has left, has in all, and has put aside as declined; None when it does not say."""
    try:
        total, leased, declined = (int(found[name]) for name in ("total", "leased", "declined"))
    except (TypeError, ValueError, LookupError):
        return None
    return total - leased - declined, total, declined


def judge_dynamic(state: Mapping[str, Any]) -> list[str]:
    """Return which name servers lack dynamic zones, maybe one for each address of the pool, or have other versions of them."""
    zones = {zone: health.zone_faults(servers) for zone, servers in state.get("dynamic", {}).items()}
    problems = []
    for name in state["lanservices"]:
        if missing := [zone for zone, (silent, _differ) in zones.items() if name in silent]:
            what = missing[0] if len(missing) == 1 else f"{len(missing)} of {len(zones)} dynamic zones, {missing[0]} among them"
            problems.append(f"DNS on {name} does not serve {what}: ./bootstrap deploy --tags dns")
    differing = [zone for zone, (_silent, differ) in zones.items() if differ]
    return problems + [f"the servers have different versions of {zone}: ./bootstrap deploy --tags dns" for zone in differing[:SHOWN]]


def judge_backups(state: dict[str, Any]) -> list[str]:
    """Add what the last backup of the deployer is, and return which copies are old or missing."""
    problems, held = [], {name: node.get("backup") for name, node in state["nodes"].items() if node["up"]}
    deployer = next((name for name, node in state["nodes"].items() if node["type"] == "deployer" and node["up"]), None)
    for name, story in held.items():
        if story and backup.age(story) > backup.OLD:
            what = f"the last backup of {name}" if name == deployer else f"the last backup of which {name} holds a copy"
            problems.append(f"{what} was made {backup.ago(backup.age(story))}")
    for name, story in held.items():
        if refused := state["nodes"][name].get("refused"):
            problems.append(f"{name} refused the last copy of the backups: {refused}")
        if story and (fell := backup.fell(story)):
            problems.append(f"the backups on {name} have {fell}")
    if deployer:
        story = held[deployer]
        state["last_backup"] = {"archive": story["archive"], "time": story["time"], "age": round(backup.age(story))} if story else None
        if story:
            holders = [name for name in state["lanservices"] if name in held and not held[name]]
            problems += [f"{name} holds no copy of the backups: ./bootstrap backup.create" for name in holders]
    return problems


UNANSWERED = {
    "addresses": "addresses", "name": "name", "now": "time", "clock": "clock", "uptime": "uptime", "units": "failed units",
    "disks": "disks", "trust": "certificates", "renewed": "last renewal", "backup": "backups", "refused": "backups",
    "tasks": "scheduled tasks", "k3s": "k3s", "dhcp": "DHCP server", "strangers": "watch for foreign DHCP servers",
    "pair": "watch over the DHCP pair",
}  # fmt: skip
"""What could not be asked, in words. Of the clock and of DHCP it is told elsewhere that they do not answer."""


def judge_machines(nodes: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with single machines: what could not be asked, names, units, disks, clocks, tasks that do not end well."""
    problems = []
    for name, node in nodes.items():
        if not node["up"]:
            continue
        unknown = dict.fromkeys(UNANSWERED.get(one, one) for one in node.get("unanswered", ()) if one not in ("clock", "dhcp"))
        if unknown:
            problems.append(f"{name} does not say how it is with its {', '.join(unknown)}")
        if node.get("name") not in (None, "", name):
            problems.append(f"{name} calls itself {node['name']}: ./bootstrap deploy --limit {name} --tags base")
        problems += [f"{unit} failed on {name}: journalctl -u {unit}" for unit in node.get("failed_units", ())]
        problems += [f"{target} of {name} is {share} % full" for target, share in node.get("disks", {}).items() if share > FULL]
        if abs(node.get("skew") or 0.0) > SKEW:
            problems.append(f"the clock of {name} differs from this machine's by {node['skew']:+.0f} s")
        if node.get("renewed") and time.time() - node["renewed"] > LATE["certificates"]:
            last = backup.ago(time.time() - node["renewed"])
            problems.append(f"the last good renewal of the certificates of {name} was {last}: ./bootstrap ca.renew")
        for task, times in node.get("tasks", {}).items():
            since = time.time() - max(times["since"], times["good"] or 0)
            if since > LATE.get(task, 2 * 86400):
                last = f"ended well {backup.ago(since)}" if times["good"] else "has never ended well"
                problems.append(f"the task {task} of {name} {last}: journalctl -u cluster-{task} there")
    return problems


def judge_trust(nodes: Mapping[str, Any]) -> list[str]:
    """Return which certificates end soon, as nothing renewed them, and who does not know what the authority revoked."""
    names, now, problems = queries.SSH_CERTIFICATES | queries.TLS_CERTIFICATES, time.time(), []
    known = {name: node["trust"] for name, node in nodes.items() if node["up"] and "trust" in node}
    for name, found in known.items():
        for one in found["certificates"]:
            left = one["last"] - now
            root = one["path"].endswith("/root.crt")
            life = one["last"] - one["first"]
            soon = SOON_ROOT if root else life / 2 - min(PATIENCE, life / 4)
            what, remedy = f"the {names[one['path']]} of {name}", "./bootstrap ca.rotate" if root else "./bootstrap ca.renew"
            if left <= 0:
                problems.append(f"{what} ended {backup.ago(-left)}: {remedy}")
            elif left < soon:
                time_left = f"{left / 86400:.0f} days" if left >= 2 * 86400 else f"{left / 3600:.0f} h"
                problems.append(f"{what} ends in {time_left}, and was not renewed: {remedy}")
    theirs = {name: found["revoked"][queries.KRL] for name, found in known.items() if queries.KRL in found["revoked"]}
    authority = next(
        (found["revoked"][queries.AUTHORITY_KRL] for found in known.values() if queries.AUTHORITY_KRL in found["revoked"]), None
    )
    if authority is None and len(set(theirs.values())) > 1:
        problems.append("the nodes do not agree on what is revoked, and the authority does not answer")
    elif authority is not None:
        problems += [
            f"{name} does not know what the authority has revoked: ./bootstrap ca.renew" for name, one in theirs.items() if one != authority
        ]
    return problems


def judge_k3s(state: dict[str, Any]) -> list[str]:
    """Add the nodes of k3s as its servers see them, empty where there is no k3s, and return what is wrong with them."""
    nodes, members = state["nodes"], state.get("k3s_members", {})
    answers = {name: nodes[name].get("k3s", {}) for name, part in members.items() if part == "server" and nodes[name]["up"]}
    known = state["k3s"] = next((found for found in answers.values() if found), {})
    problems = [f"k3s on {name} does not answer" for name, found in answers.items() if found is None]
    if known:
        problems += [f"{name} is not in k3s" for name in members if name not in known and nodes[name]["up"]]
        problems += [f"{name} is not ready in k3s" for name, node in known.items() if not node["ready"]]
        if len(versions := {node["version"] for node in known.values()}) > 1:
            problems.append(f"k3s runs in different versions: {', '.join(sorted(versions))}")
    return problems
