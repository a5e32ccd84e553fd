"""One screen with the state of a cluster: who is there, who serves, and whether the servers agree."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from beowulf import backup, ca, recording
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
# What a node has of each: the certificates that it shows others, and on the authority those that signed them.
SSH_CERTIFICATES = {
    "/etc/ssh/ssh_host_ed25519_key-cert.pub": "SSH certificate",
    "/etc/ssh/cluster/users/mpi/id_ed25519-cert.pub": "SSH certificate for MPI",
}
TLS_CERTIFICATES = {
    "/etc/kea/tls/node.crt": "TLS certificate of DHCP",
    "/etc/ssl/cluster/node.crt": "TLS certificate of ARA",
    f"{ca.FOLDER}/tls/intermediate.crt": "TLS intermediate",
    f"{ca.FOLDER}/tls/root.crt": "TLS root",
}
KRL = "/etc/ssh/cluster/revoked.krl"
AUTHORITY_KRL = f"{ca.FOLDER}/public/revoked.krl"
# `file PATH` before the times of each certificate in it; then the sums of the lists of what is revoked.
TRUST_ASK = f"""sudo -n sh -c '
for one in {" ".join(SSH_CERTIFICATES)}; do test ! -e $one || {{ echo "file $one"; TZ=UTC ssh-keygen -L -f $one | grep Valid: ; }}; done
for one in {" ".join(TLS_CERTIFICATES)}; do
  test ! -e $one || {{ echo "file $one"; openssl storeutl -noout -text -certs $one | grep -E "Not (Before|After)" ; }}
done
sha256sum {KRL} {AUTHORITY_KRL}'"""
SOON = 30 * 86400
"""Seconds before its end from which on it is told that a certificate ends, or less: the last quarter of its life. It is renewed at half."""
SOON_ROOT = 180 * 86400
"""The same for the root of TLS, which lasts until the authority is given new keys."""
QUESTIONS = {
    "addresses": "ip -brief -4 address",
    "clock": "chronyc -c tracking",
    "uptime": "cat /proc/uptime",
    "trust": TRUST_ASK,
}
BACKUP_QUESTIONS = QUESTIONS | {"backup": backup.ASK}
# Nothing is said where k3s is not installed, and `down` where it is and does not answer.
K3S_NODES = (
    'jsonpath={range .items[*]}{.metadata.name}{" "}{.status.nodeInfo.kubeletVersion}{" "}'
    '{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
)
K3S_QUESTIONS = QUESTIONS | {
    "k3s": f"! test -e /etc/systemd/system/k3s.service || sudo -n k3s kubectl get nodes --request-timeout=5s -o '{K3S_NODES}' || echo down"
}
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
            elif rest.strip() in (KRL, AUTHORITY_KRL):
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
    if node in cluster.group("k3s_server"):
        questions = K3S_QUESTIONS
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
        "k3s": k3s_nodes(found.get("k3s", "")),
        "trust": trust(found.get("trust", "")),
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
    pair = variables["rack_lanservices"]
    with ThreadPoolExecutor(max_workers=32) as pool:
        nodes = {name: pool.submit(ask_node, cluster, name) for name in rack.nodes}
        serials = {zone: {one["name"]: pool.submit(serial, zone, one["address"]) for one in pair} for zone in zones}
        run = pool.submit(last_run, cluster)
        return judge(
            {
                "cluster": rack.cluster,
                "vip": str(rack.network.vip),
                "nodes": {name: {"type": rack.nodes[name].type, "address": str(rack.nodes[name].address), **asked.result()}
                          for name, asked in nodes.items()},
                "serials": {zone: {name: asked.result() for name, asked in servers.items()} for zone, servers in serials.items()},
                "lanservices": [one["name"] for one in pair],
                "k3s_members": {name: "server" if name in cluster.group("k3s_server") else "agent"
                                for name in (*cluster.group("k3s_server"), *cluster.group("k3s_agent"))},
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
    problems += judge_k3s(state)
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
    problems += judge_trust(nodes)
    return {**state, "problems": problems, "healthy": not problems}


def judge_trust(nodes: Mapping[str, Any]) -> list[str]:
    """Return which certificates end soon, as nothing renewed them, and who does not know what the authority revoked."""
    names, now, problems = SSH_CERTIFICATES | TLS_CERTIFICATES, time.time(), []
    known = {name: node["trust"] for name, node in nodes.items() if node["up"] and "trust" in node}
    for name, found in known.items():
        for one in found["certificates"]:
            left = one["last"] - now
            root = one["path"].endswith("/root.crt")
            soon = SOON_ROOT if root else min(SOON, (one["last"] - one["first"]) / 4)
            what, remedy = f"the {names[one['path']]} of {name}", "./bootstrap ca.rotate" if root else "./bootstrap ca.renew"
            if left <= 0:
                problems.append(f"{what} ended {backup.ago(-left)}: {remedy}")
            elif left < soon:
                time_left = f"{left / 86400:.0f} days" if left >= 2 * 86400 else f"{left / 3600:.0f} h"
                problems.append(f"{what} ends in {time_left}, and was not renewed: {remedy}")
    theirs = {name: found["revoked"][KRL] for name, found in known.items() if KRL in found["revoked"]}
    authority = next((found["revoked"][AUTHORITY_KRL] for found in known.values() if AUTHORITY_KRL in found["revoked"]), None)
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
    herd = Table("k3s node", "part", "state", "version")
    for name, node in state.get("k3s", {}).items():
        ready = Text("ready", style="green") if node["ready"] else Text("not ready", style="bold red")
        herd.add_row(name, state["k3s_members"].get(name, "not in the rack"), ready, node["version"])
    run = state["last_run"]
    last = f"last run: {run['playbook']} {run['status']}, {run['started'][:19]}, {run['url']}" if run else "last run: none recorded"
    # Nothing is said of a deployer that is down.
    kept = state.get("last_backup", "unknown")
    saved = f"{kept['archive']}, {backup.ago(kept['age'])}" if isinstance(kept, dict) else kept or "never: ./bootstrap backup.create"
    problems = [Text(f"! {problem}", style="red") for problem in state["problems"]] or [Text("healthy", style="bold green")]
    return Group(nodes, zones, *([herd] if herd.row_count else []), Text(last), Text(f"last backup: {saved}"), *problems)
