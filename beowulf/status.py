"""How the cluster is: ask nodes, name servers and ARA, and show it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

from beowulf import backup, questions, recording, ssh
from beowulf.health import judgement, queries, readings
from beowulf.terminal import plain_data

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

ON_ITS_WAY = 2.0
"""Seconds for a change of a zone to reach the other name server."""


def serial(zone: str, address: str) -> int | None:
    """Ask a server for the serial number of its zone."""
    import dns.exception
    import dns.message
    import dns.query

    try:
        answer = dns.query.udp(dns.message.make_query(zone, "SOA"), address, timeout=2)
        return next((record.serial for rrset in answer.answer for record in rrset if rrset.rdtype == 6), None)
    except (dns.exception.DNSException, OSError):
        return None


def ask_node(cluster: Cluster, node: str) -> dict[str, Any]:
    """Ask one node everything, over SSH."""
    asked = {"lanservices": queries.DHCP_QUESTIONS, "deployer": queries.BACKUP_QUESTIONS}.get(
        cluster.rack.nodes[node].type, queries.QUESTIONS
    )
    if node in cluster.group("k3s_server"):
        asked = queries.K3S_QUESTIONS
    before = time.time()
    result = ssh.run(cluster, node, ["sh", "-s"], text=questions.script(asked), timeout=queries.LIMIT, limit=queries.LARGEST)
    after = time.time()
    found, failed = questions.answers(result.stdout)
    if "addresses" not in found:
        reason = result.stderr.strip().splitlines()
        return {"up": False, "reason": reason[-1] if reason else "no answer"}
    now = readings.number(found.get("now", ""))
    return {
        "up": True,
        # Of what came after the question that the time ran out at, nothing is known.
        "unanswered": [name for name in asked if name not in found or name in failed],
        "name": found.get("name", "").strip(),
        "addresses": sorted(readings.addresses(found["addresses"])),
        "clock": readings.clock_offset(found.get("clock", "")),
        "skew": None if now is None else now - after if now > after else min(0.0, now - before),
        "uptime": readings.number(found.get("uptime", "")) or 0.0,
        "failed_units": [line.split()[0] for line in found.get("units", "").splitlines() if line.strip()],
        "disks": readings.disks(found.get("disks", "")),
        "tasks": readings.tasks(found.get("tasks", "")),
        "dhcp": readings.ha_state(found.get("dhcp", "")),
        "watch": readings.watch(found.get("strangers", "")),
        "foreign_dhcp": readings.foreign(readings.watch(found.get("strangers", ""))),
        "pair": readings.watch(found.get("pair", "")),
        "backup": backup.read_story(found.get("backup", "")),
        "refused": found.get("refused", "").strip(),
        "renewed": readings.number(found.get("renewed", "")),
        "k3s": readings.k3s_nodes(found.get("k3s", "")),
        "trust": readings.trust(found.get("trust", "")),
    }


def last_run(cluster: Cluster) -> dict[str, Any] | None:
    """Return what was recorded last about a cluster, on its deployer or on this machine."""
    return max(filter(None, (newest(server, cluster.rack.cluster) for server in recording.servers(cluster))), key=started, default=None)


def started(run: Mapping[str, Any]) -> datetime:
    """Return when a run began; the servers may tell it in different time zones."""
    return datetime.fromisoformat(run["started"])


def newest(server: recording.Reader, name: str) -> dict[str, Any] | None:
    """Return the last run of a cluster that a server has recorded; None without one, or without an answer."""
    try:
        run = server.get(f"/api/v1/playbooks?limit=1&order=-id&label=cluster:{name}")["results"][0]
    except (OSError, ValueError, LookupError):
        return None
    playbook = os.path.basename(run["path"])
    return {"url": f"{server.url}/playbooks/{run['id']}.html", "status": run["status"], "playbook": playbook, "started": run["started"]}


def gather(cluster: Cluster) -> dict[str, Any]:
    """Ask nodes, name servers and ARA at the same time."""
    rack, variables = cluster.rack, cluster.variables
    zones = [zone["name"] for zone in variables["rack_zones"]]
    dynamic = [variables["rack_dyn_domain"], *variables["rack_dyn_reverse_zones"]]
    pair = variables["rack_lanservices"]
    with ThreadPoolExecutor(max_workers=64) as pool:

        def ask(zones: Iterable[str]) -> dict[str, dict[str, int | None]]:
            asked = {zone: {one["name"]: pool.submit(serial, zone, one["address"]) for one in pair} for zone in zones}
            return {zone: {name: answer.result() for name, answer in servers.items()} for zone, servers in asked.items()}

        nodes = {name: pool.submit(ask_node, cluster, name) for name in rack.nodes}
        run = pool.submit(last_run, cluster)
        serials, names = ask(zones), ask(dynamic)
        if differing := [zone for zone, servers in names.items() if len(set(servers.values())) > 1]:
            # They change at any time, and a change is on its way for a moment.
            time.sleep(ON_ITS_WAY)
            names |= ask(differing)
        return judgement.judge(
            {
                "cluster": rack.cluster,
                "vip": str(rack.network.vip),
                "nodes": {name: {"type": rack.nodes[name].type, "address": str(rack.nodes[name].address), **asked.result()}
                          for name, asked in nodes.items()},
                "serials": serials,
                "dynamic": names,
                "lanservices": [one["name"] for one in pair],
                "k3s_members": {name: "server" if name in cluster.group("k3s_server") else "agent"
                                for name in (*cluster.group("k3s_server"), *cluster.group("k3s_agent"))},
                "last_run": run.result(),
            }
        )  # fmt: skip


def screen(state: Mapping[str, Any]) -> Any:
    """Return the screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    state = plain_data(state)  # and as Text, in which nothing is markup
    nodes = Table(
        "node", "type", "address", "state", "clock", "DHCP", "renewed", "backup", title=f"cluster {state['cluster']}", title_justify="left"
    )
    for name, node in state["nodes"].items():
        holds = " VIP" if name in state["vip_holders"] else ""
        word = Text("up" + holds, style="green") if node["up"] else Text("down", style="bold red")
        offset = node.get("clock")
        clock = "-" if offset is None else f"{offset * 1000:+.3f} ms"
        kept = node.get("backup")
        nodes.add_row(
            name,
            node["type"],
            node["address"],
            word,
            clock,
            Text(node.get("dhcp") or ""),
            backup.ago(time.time() - node["renewed"]) if node.get("renewed") else "",
            backup.ago(backup.age(kept)) if kept else "",
        )
    zones = Table("zone", *state["lanservices"])
    for zone, servers in state["serials"].items():
        zones.add_row(zone, *(str(servers[name] or "down") for name in state["lanservices"]))
    members = Table("k3s node", "part", "state", "version")
    for name, node in state.get("k3s", {}).items():
        ready = Text("ready", style="green") if node["ready"] else Text("not ready", style="bold red")
        members.add_row(Text(name), state["k3s_members"].get(name, "not in the rack"), ready, Text(node["version"]))
    run = state["last_run"]
    last = f"last run: {run['playbook']} {run['status']}, {run['started'][:19]}, {run['url']}" if run else "last run: none recorded"
    # Nothing is said of a deployer that is down.
    kept = state.get("last_backup", "unknown")
    saved = f"{kept['archive']}, {backup.ago(kept['age'])}" if isinstance(kept, dict) else kept or "never: ./bootstrap backup.create"
    problems = [Text(f"! {problem}", style="red") for problem in state["problems"]] or [Text("healthy", style="bold green")]
    return Group(nodes, zones, *([members] if members.row_count else []), Text(last), Text(f"last backup: {saved}"), *problems)
