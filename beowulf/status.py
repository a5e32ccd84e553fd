"""One screen with the state of a cluster: who is there, who serves, and whether the servers agree."""

from __future__ import annotations

import json
import math
import os
import ssl
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from beowulf import backup, questions, recording
from beowulf.pki import identity
from beowulf.process import output
from beowulf.terminal import plain_data

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

LIMIT = 10.0
LARGEST = 1 << 20
"""Bytes that a node may answer with; whoever says more is not listened to."""
CLOCK = 0.1
SKEW = 5.0
"""Seconds by which a node's clock may differ from this machine's, beside the time that the question took."""
FULL = 85
"""Per cent of a file system, in bytes or in files, from which on it is told that it is nearly full."""
ON_ITS_WAY = 2.0
"""Seconds for a change of a zone to reach the other name server."""
SHOWN = 3
STALE = 300
"""Seconds after which a watch that runs several times a minute, or every minute, has not looked for too long."""
POOL_LEFT = 3
"""Addresses left in the pool from which on it is told that there will soon be none."""
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
    f"{identity.FOLDER}/tls/intermediate.crt": "TLS intermediate",
    f"{identity.FOLDER}/tls/root.crt": "TLS root",
}
KRL = "/etc/ssh/cluster/revoked.krl"
AUTHORITY_KRL = f"{identity.FOLDER}/public/revoked.krl"
# `file PATH` before the times of each certificate in it; then the sums of the lists of what is revoked.
TRUST_ASK = f"""sudo -n sh -c '
for one in {" ".join(SSH_CERTIFICATES)}; do test ! -e $one || {{ echo "file $one"; TZ=UTC ssh-keygen -L -f $one | grep Valid: ; }}; done
for one in {" ".join(TLS_CERTIFICATES)}; do
  test ! -e $one || {{ echo "file $one"; openssl storeutl -noout -text -certs $one | grep -E "Not (Before|After)" ; }}
done
for one in {KRL} {AUTHORITY_KRL}; do test ! -e $one || sha256sum $one; done'"""
PATIENCE = 2 * 86400
"""Seconds after half of its life in which a certificate is renewed, or a quarter of its life where that is less."""
SOON_ROOT = 180 * 86400
"""Seconds before the end of the root of TLS, which lasts until the authority is given new keys."""
# What is kept on a disk: /dev/shm and the like are of the memory. `df` fails for one that it cannot ask, and tells the others.
DISKS_ASK = "df --local --output=target,pcent,ipcent --exclude-type=tmpfs --exclude-type=devtmpfs --exclude-type=squashfs"
QUESTIONS = {
    "addresses": "ip -brief -4 address",
    "name": "uname -n",
    "now": "date +%s.%N",
    "clock": "chronyc -c tracking",
    "uptime": "cat /proc/uptime",
    "units": "systemctl list-units --failed --plain --no-legend --no-pager",
    "disks": DISKS_ASK,
    "trust": TRUST_ASK,
    "renewed": "sudo -n sh -c 'test ! -e /etc/ssh/cluster/renewed || stat -c %Y /etc/ssh/cluster/renewed'",
}
# When each task was there first, when it ended well the last time (roles/schedule), and what it is; what never ran well has no second time.
TASKS = "/var/lib/beowulf/tasks"
TASKS_ASK = f"""cd /etc/systemd/system && for one in cluster-*.timer; do
one=${{one%.timer}}; one=${{one#cluster-}}
echo "$one $(stat -c %W:%Y cluster-$one.timer) $(test ! -e {TASKS}/$one || stat -c %Y {TASKS}/$one)"
done"""
LATE = {"backup": 26 * 3600, "certificates": 9 * 3600, "registry": 3600}
"""Seconds after which a task of the deployer is late, when it did not end well: it may fail once, but not twice."""
BACKUP_ASK = f"! sudo -n test -e {backup.REPOSITORY} || {{ {backup.ASK} ; }}"
BACKUP_QUESTIONS = QUESTIONS | {"backup": BACKUP_ASK, "tasks": TASKS_ASK}
# Nothing is said where k3s is not installed, and `down` where it is and does not answer.
K3S_NODES = (
    'jsonpath={range .items[*]}{.metadata.name}{" "}{.status.nodeInfo.kubeletVersion}{" "}'
    '{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
)
K3S_QUESTIONS = QUESTIONS | {
    "k3s": f"! test -e /etc/systemd/system/k3s.service || sudo -n k3s kubectl get nodes --request-timeout=5s -o '{K3S_NODES}' || echo down"
}
DHCP_QUESTIONS = QUESTIONS | {
    "backup": BACKUP_ASK,
    "refused": backup.ASK_REFUSED,
    "dhcp": f'sudo -n python3 -c "{KEA_ASK}"',
    "strangers": "sudo -n cat /run/dhcp-watch/strangers.json",
    "pair": "cat /run/dhcp-pair/state.json",
}


def addresses(text: str) -> set[str]:
    """Return the addresses in the output of `ip -brief address`."""
    return {word.split("/")[0] for line in text.splitlines() for word in line.split()[2:] if "." in word}


def clock_offset(text: str) -> float | None:
    """Return the seconds a clock is off, from `chronyc -c tracking`; None while it is not synchronised.

    A server that keeps the cluster's time by itself, for want of one outside, is its own reference.
    """
    fields = text.strip().split(",")
    if len(fields) < 14 or fields[0] == "00000000" or fields[13] == "Not synchronised":
        return None
    return number(fields[4])


def ha_state(text: str) -> str | None:
    """Return the state of a Kea server in its pair, from the answer to `status-get`."""
    try:
        return json.loads(text)["arguments"]["high-availability"][0]["ha-servers"]["local"]["state"]
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
    asked = {"lanservices": DHCP_QUESTIONS, "deployer": BACKUP_QUESTIONS}.get(cluster.rack.nodes[node].type, QUESTIONS)
    if node in cluster.group("k3s_server"):
        asked = K3S_QUESTIONS
    before = time.time()
    result = output([*command, "sh", "-s"], timeout=LIMIT, text=questions.script(asked), limit=LARGEST)
    after = time.time()
    found, failed = questions.answers(result.stdout)
    if "addresses" not in found:
        reason = result.stderr.strip().splitlines()
        return {"up": False, "reason": reason[-1] if reason else "no answer"}
    now = number(found.get("now", ""))
    return {
        "up": True,
        # Of what came after the question that the time ran out at, nothing is known.
        "unanswered": [name for name in asked if name not in found or name in failed],
        "name": found.get("name", "").strip(),
        "addresses": sorted(addresses(found["addresses"])),
        "clock": clock_offset(found.get("clock", "")),
        "skew": None if now is None else now - after if now > after else min(0.0, now - before),
        "uptime": number(found.get("uptime", "")) or 0.0,
        "failed_units": [line.split()[0] for line in found.get("units", "").splitlines() if line.strip()],
        "disks": disks(found.get("disks", "")),
        "tasks": tasks(found.get("tasks", "")),
        "dhcp": ha_state(found.get("dhcp", "")),
        "watch": watch(found.get("strangers", "")),
        "foreign_dhcp": foreign(watch(found.get("strangers", ""))),
        "pair": watch(found.get("pair", "")),
        "backup": backup.read_story(found.get("backup", "")),
        "refused": found.get("refused", "").strip(),
        "renewed": number(found.get("renewed", "")),
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
        return judge(
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
    for one in {(one["server"], one["mac"]): one for node in nodes.values() for one in node.get("foreign_dhcp", ())}.values():
        problems.append(f"a foreign DHCP server {one['server']} ({one['mac']}) offers addresses on the LAN")
    problems += judge_dhcp(state)
    problems += judge_k3s(state)
    for zone, servers in state["serials"].items():
        problems += [f"DNS on {name} does not serve {zone}" for name, number in servers.items() if number is None]
        if len({number for number in servers.values() if number is not None}) > 1:
            problems.append(f"the servers have different versions of {zone}")
    problems += judge_dynamic(state)
    problems += judge_backups(state)
    for name, node in nodes.items():
        if node["up"] and node["clock"] is None:
            problems.append(f"the clock of {name} is not synchronised")
        elif node["up"] and abs(node["clock"]) > CLOCK:
            problems.append(f"the clock of {name} is {node['clock']:+.3f} s off")
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
    zones = state.get("dynamic", {})
    problems = []
    for name in state["lanservices"]:
        if missing := [zone for zone, servers in zones.items() if servers[name] is None]:
            what = missing[0] if len(missing) == 1 else f"{len(missing)} of {len(zones)} dynamic zones, {missing[0]} among them"
            problems.append(f"DNS on {name} does not serve {what}: ./bootstrap deploy --tags dns")
    differing = [zone for zone, servers in zones.items() if None not in servers.values() and len(set(servers.values())) > 1]
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
    names, now, problems = SSH_CERTIFICATES | TLS_CERTIFICATES, time.time(), []
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
    herd = Table("k3s node", "part", "state", "version")
    for name, node in state.get("k3s", {}).items():
        ready = Text("ready", style="green") if node["ready"] else Text("not ready", style="bold red")
        herd.add_row(Text(name), state["k3s_members"].get(name, "not in the rack"), ready, Text(node["version"]))
    run = state["last_run"]
    last = f"last run: {run['playbook']} {run['status']}, {run['started'][:19]}, {run['url']}" if run else "last run: none recorded"
    # Nothing is said of a deployer that is down.
    kept = state.get("last_backup", "unknown")
    saved = f"{kept['archive']}, {backup.ago(kept['age'])}" if isinstance(kept, dict) else kept or "never: ./bootstrap backup.create"
    problems = [Text(f"! {problem}", style="red") for problem in state["problems"]] or [Text("healthy", style="bold green")]
    return Group(nodes, zones, *([herd] if herd.row_count else []), Text(last), Text(f"last backup: {saved}"), *problems)
