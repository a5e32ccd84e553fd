"""One screen with the state of a cluster: who is there, who serves, and whether the servers agree."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from beowulf import ara, backup
from beowulf.process import environment

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

LIMIT = 10.0
CLOCK = 0.1
KEA_SOCKET = "/run/kea/kea4-ctrl-socket"
GOOD_HA = {"hot-standby", "load-balancing"}

# One connection to a node: what follows a line `== name` is the answer to that question.
KEA_ASK = (
    "import socket;s=socket.socket(socket.AF_UNIX);s.settimeout(3);"
    f"s.connect('{KEA_SOCKET}');s.sendall(b'{{\\\"command\\\":\\\"status-get\\\"}}');s.shutdown(1);"
    "print(b''.join(iter(lambda:s.recv(65536),b'')).decode())"
)
QUESTIONS = {
    "addresses": "ip -brief -4 address",
    "clock": "chronyc -c tracking",
    "uptime": "cat /proc/uptime",
}
BACKUP_QUESTIONS = QUESTIONS | {"backup": backup.ASK}
DHCP_QUESTIONS = QUESTIONS | {"dhcp": f'sudo -n python3 -c "{KEA_ASK}"', "strangers": "sudo -n cat /run/dhcp-watch/strangers.json"}


def script(questions: Mapping[str, str]) -> str:
    """Return the shell script that a node is asked with."""
    return "\n".join(f"echo '== {name}'\n{{ {command} ; }} 2>/dev/null" for name, command in questions.items())


def answers(text: str) -> dict[str, str]:
    """Take a node's answers apart."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("== "):
            current = found.setdefault(line[3:], [])
        else:
            current.append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def addresses(text: str) -> set[str]:
    """Return the addresses in the output of `ip -brief address`."""
    return {word.split("/")[0] for line in text.splitlines() for word in line.split()[2:] if "." in word}


def clock_offset(text: str) -> float | None:
    """Return the seconds a clock is off, from `chronyc -c tracking`; None while it is not synchronised.

    A server that keeps the cluster's time by itself, for want of one outside, is its own reference.
    """
    fields = text.strip().split(",")
    try:
        return float(fields[4]) if fields[0] != "00000000" and fields[13] != "Not synchronised" else None
    except (IndexError, ValueError):
        return None


def ha_state(text: str) -> str | None:
    """Return the state of a Kea server in its pair, from the answer to `status-get`."""
    try:
        return json.loads(text)["arguments"]["high-availability"][0]["ha-servers"]["local"]["state"]
    except (ValueError, LookupError, TypeError):
        return None


def foreign(text: str) -> list[dict[str, str]]:
    """Return the foreign DHCP servers that a node has found on the LAN: their address, MAC, and what they offer."""
    try:
        return [one for one in json.loads(text) if {"server", "mac", "offers"} <= set(one)]
    except (ValueError, TypeError):
        return []


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
    command = cluster.ssh(node)
    command[1:1] = ["-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
    questions = {"lanservices": DHCP_QUESTIONS, "deployer": BACKUP_QUESTIONS}.get(cluster.rack.nodes[node].type, QUESTIONS)
    try:
        result = subprocess.run(
            [*command, "sh", "-s"], input=script(questions), capture_output=True, text=True, timeout=LIMIT,
            check=False, env=environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"up": False, "reason": f"no answer in {LIMIT:.0f} s"}
    except OSError as error:
        return {"up": False, "reason": str(error)}
    found = answers(result.stdout)
    if "addresses" not in found:
        reason = result.stderr.strip().splitlines()
        return {"up": False, "reason": reason[-1] if reason else "no answer"}
    return {
        "up": True,
        "addresses": sorted(addresses(found["addresses"])),
        "clock": clock_offset(found.get("clock", "")),
        "uptime": float((found.get("uptime") or "0").split()[0]),
        "dhcp": ha_state(found.get("dhcp", "")),
        "foreign_dhcp": foreign(found.get("strangers", "")),
        "backup": backup.read_story(found.get("backup", "")),
    }


def last_run(name: str) -> dict[str, Any] | None:
    """Return what ARA recorded last about a cluster."""
    server = os.environ.get("ARA_API_SERVER")
    handlers = [] if server else [urllib.request.ProxyHandler({})]
    if not server and (local := ara.running()):
        server = local[1]
    if not server:
        return None
    try:
        url = f"{server}/api/v1/playbooks?limit=1&order=-id&label=cluster:{name}"
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as response:
            run = json.load(response)["results"][0]
    except (OSError, urllib.error.URLError, ValueError, LookupError):
        return None
    playbook = os.path.basename(run["path"])
    return {"url": f"{server}/playbooks/{run['id']}.html", "status": run["status"], "playbook": playbook, "started": run["started"]}


def gather(cluster: Cluster) -> dict[str, Any]:
    """Ask nodes, name servers and ARA at the same time."""
    rack, variables = cluster.rack, cluster.variables
    zones = [zone["name"] for zone in variables["rack_zones"]]
    pair = variables["rack_lanservices"]
    with ThreadPoolExecutor(max_workers=32) as pool:
        nodes = {name: pool.submit(ask_node, cluster, name) for name in rack.nodes}
        serials = {zone: {one["name"]: pool.submit(serial, zone, one["address"]) for one in pair} for zone in zones}
        run = pool.submit(last_run, rack.cluster)
        return judge(
            {
                "cluster": rack.cluster,
                "vip": str(rack.network.vip),
                "nodes": {name: {"type": rack.nodes[name].type, "address": str(rack.nodes[name].address), **asked.result()}
                          for name, asked in nodes.items()},
                "serials": {zone: {name: asked.result() for name, asked in servers.items()} for zone, servers in serials.items()},
                "lanservices": [one["name"] for one in pair],
                "last_run": run.result(),
            }
        )  # fmt: skip


def judge(state: dict[str, Any]) -> dict[str, Any]:
    """Add who holds the VIP, and all that is not as it should be."""
    nodes, problems = state["nodes"], []
    problems += [f"{name} is down ({node['reason']})" for name, node in nodes.items() if not node["up"]]
    state["vip_holders"] = [name for name, node in nodes.items() if state["vip"] in node.get("addresses", ())]
    if len(state["vip_holders"]) != 1:
        problems.append(f"the VIP {state['vip']} is held by {' and '.join(state['vip_holders']) or 'nobody'}")
    for name in state["lanservices"]:
        if nodes[name]["up"] and nodes[name]["dhcp"] not in GOOD_HA:
            problems.append(f"DHCP on {name} is {nodes[name]['dhcp'] or 'down'}")
    for one in {one["server"]: one for node in nodes.values() for one in node.get("foreign_dhcp", ())}.values():
        problems.append(f"a foreign DHCP server {one['server']} ({one['mac']}) offers addresses on the LAN")
    for zone, servers in state["serials"].items():
        problems += [f"DNS on {name} does not serve {zone}" for name, number in servers.items() if number is None]
        if len({number for number in servers.values() if number is not None}) > 1:
            problems.append(f"the servers have different versions of {zone}")
    for name, node in nodes.items():
        if node["up"] and node["type"] == "deployer":
            story = node.get("backup")
            state["last_backup"] = {"archive": story["archive"], "time": story["time"], "age": round(backup.age(story))} if story else None
            if story and backup.age(story) > backup.OLD:
                problems.append(f"the last backup of {name} was made {backup.ago(backup.age(story))}")
    for name, node in nodes.items():
        if node["up"] and node["clock"] is None:
            problems.append(f"the clock of {name} is not synchronised")
        elif node["up"] and abs(node["clock"]) > CLOCK:
            problems.append(f"the clock of {name} is {node['clock']:+.3f} s off")
    return {**state, "problems": problems, "healthy": not problems}


def screen(state: Mapping[str, Any]) -> Any:
    """Return the screen."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    nodes = Table("node", "type", "address", "state", "clock", "DHCP", title=f"cluster {state['cluster']}", title_justify="left")
    for name, node in state["nodes"].items():
        holds = " VIP" if name in state["vip_holders"] else ""
        word = Text("up" + holds, style="green") if node["up"] else Text("down", style="bold red")
        offset = node.get("clock")
        clock = "-" if offset is None else f"{offset * 1000:+.3f} ms"
        nodes.add_row(name, node["type"], node["address"], word, clock, node.get("dhcp") or "")
    zones = Table("zone", *state["lanservices"])
    for zone, servers in state["serials"].items():
        zones.add_row(zone, *(str(servers[name] or "down") for name in state["lanservices"]))
    run = state["last_run"]
    last = f"last run: {run['playbook']} {run['status']}, {run['started'][:19]}, {run['url']}" if run else "last run: none recorded"
    # Nothing is said of a deployer that is down.
    kept = state.get("last_backup", "unknown")
    saved = f"{kept['archive']}, {backup.ago(kept['age'])}" if isinstance(kept, dict) else kept or "never: ./bootstrap backup.create"
    problems = [Text(f"! {problem}", style="red") for problem in state["problems"]] or [Text("healthy", style="bold green")]
    return Group(nodes, zones, Text(last), Text(f"last backup: {saved}"), *problems)
