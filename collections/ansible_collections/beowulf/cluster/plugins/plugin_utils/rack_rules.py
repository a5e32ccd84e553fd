# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that see more than one key of a rack file.

One mistake gives one message: a value that a rule has named is *tainted*, and later rules keep silent about it. A value
that was refused on its own is None here, and no rule says more about it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import HIDDEN, Problem, show
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_schema import ARMV6, TYPES, Node, Rack
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_source import Loc, Source
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_values import AUTHORITY, COMMON_NAME, LONGEST_DOMAIN

MAX_NODES = 10_000
COUNTS = {"router": (1, 1), "deployer": (1, 1), "lanservices": (2, 2), "compute": (1, MAX_NODES)}
SPARE_LEASES = 2
"""Addresses of the pool beyond those that the nodes take in a first deploy, all of them but the router."""
SWITCHES = {"router": ("uplink",), "compute": ("k3s", "distcc", "mpi", "jobs", "slots"), "lanservices": ("dns", "vrrp_priority")}
FUNCTIONS = {  # type: the function groups all of its nodes are in; the switches of a node add the others
    "router": ("nat", "bootstrap"),
    "deployer": ("apt_cache", "ca", "redis", "ara", "controller", "backup"),
    "lanservices": ("dhcp", "dns", "ntp_server", "vip", "tftp", "httpd", "backup_copy"),
    "compute": (),
}
SWITCHED = ("dns_primary", "dns_secondary", "distcc", "mpi", "jobs", "jobs_server", "k3s", "k3s_server", "k3s_agent")
NODES = "nodes"
"""The group of all nodes of the file; `all` has the machines that the registry knows, too."""
GROUPS = (NODES, *TYPES, *(name for names in FUNCTIONS.values() for name in names), *SWITCHED)
SERVICE_NAMES = ("vip", "ns1", "ns2", "ntp", "tftp", "ara", "k3s", "status", "gateway", "router", "deployer", "dyn")
RESERVED = ("localhost", "all", "ungrouped", "discovered", *SERVICE_NAMES)
INTERFACE = 15
"""Characters of the name of a network interface, by the kernel (IFNAMSIZ)."""
LINKS = ("lan", "wan", "adm", "far")
"""What a lab calls its interfaces on this host, after the name of the cluster and a hyphen: roles/lab."""
CERTIFIED = ("deployer", "lanservices")
"""Types of the nodes that have a certificate of TLS, named after them: roles/tls."""
K3S_NETWORKS = {"pods": IPv4Network("10.42.0.0/16"), "services": IPv4Network("10.43.0.0/16")}  # k3s' own defaults

_SECRET = re.compile(r"(?i)(pass(word|wd|phrase)?|secret|token|api_?key|private_?key|psk|credentials?|_pw)\Z|_(pass|secret|token)_|^pw\Z")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\$ANSIBLE_VAULT;|AGE-SECRET-KEY-")
_VAULT_HINT = "secrets belong in the vault: put it, encrypted, into inventory/group_vars/ and remove it here"


class Report:
    """The problems found so far, at most one for each place in the file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: dict[Loc, Problem] = dict(source.problems)
        self.tainted: set[Loc] = set(source.problems)

    def add(self, loc: Loc, rule: str, hint: str = "", *, also: tuple[Loc, ...] = (), value: Any = None, at_key: bool = False) -> None:
        """Say once that the value at ``loc`` breaks ``rule``; it and the places in ``also`` are tainted from now on."""
        if loc not in self.problems:
            self.problems[loc] = self.source.problem(loc, rule, hint, value="" if value is None else show(value), at_key=at_key)
        self.tainted.update((loc, *also))

    def clean(self, *locs: Loc) -> bool:
        """Whether no problem touches any of these places."""
        return not any(loc in self.tainted for loc in locs)

    def sorted(self) -> list[Problem]:
        """The problems in the order of the file."""
        return sorted(self.problems.values(), key=lambda each: (each.line, each.column))


def check_file(report: Report) -> None:
    """Check what the models cannot see or would say less well about: secrets, names that differ in case, a prefix on the VIP."""
    data = report.source.data
    _check_secrets(report)
    nodes, network = data.get("nodes"), data.get("network")
    for name in nodes if isinstance(nodes, dict) else ():
        if name != name.lower() and name.lower() in nodes:
            rule = f"is the name of node {name.lower()} but for its case, and DNS knows no case"
            report.add(("nodes", name, "[key]"), rule, "every name belongs to one node", value=name, at_key=True)
    if isinstance(network, dict) and re.fullmatch(r"[0-9.]+/.*", str(network.get("vip"))):
        vip, prefix = str(network["vip"]).split("/")[0], str(network.get("subnet")).partition("/")[2]
        rule = "must be an address alone: its prefix length is the subnet's" + (f" (/{prefix})" if prefix else "")
        report.add(("network", "vip"), rule, f"write {vip}", value=str(network["vip"]))


def _check_secrets(report: Report) -> None:
    """Refuse what looks like a secret in clear, by its key or its value; the value is never shown."""
    for loc, value in _walk(report.source.data, ()):
        key = loc[-1]
        if isinstance(value, str) and _KEY_BLOCK.search(value):
            report.add(loc, "holds a private key or a vault text", _VAULT_HINT, value=None)
        elif isinstance(key, str) and _SECRET.search(key) and loc != ("ssh", "private_key") and not _is_expression(loc, value):
            report.add(loc, f"looks like a secret in clear {HIDDEN}", _VAULT_HINT, at_key=True)
        elif loc == ("registry",) and isinstance(value, str) and "@" in value:
            hint = "set the password in the environment: BEOWULF_REGISTRY_PASSWORD"
            report.add(loc, f"holds a login {HIDDEN}", hint)


def check_relations(report: Report, rack: Rack) -> None:
    """Check how the values of ``rack`` relate; whatever was refused before is None in it."""
    nodes = dict(rack.nodes or {})
    _check_names(report, rack, nodes)
    _check_lengths(report, rack, nodes)
    _check_counts(report, rack, nodes)
    _check_switches(report, nodes)
    _check_deployer(report, nodes)
    _check_macs(report, nodes)
    _check_serials(report, nodes)
    if rack.network:
        _check_subnet(report, rack, nodes)
        _check_addresses(report, rack, nodes)
        _check_pool(report, rack, nodes)
        _check_gateway(report, rack, nodes)
        _check_uplink(report, rack, nodes)
        _check_upstream(report, rack, nodes)
    _check_timers(report, rack)
    _check_pairs(report, nodes)
    _check_k3s(report, nodes)
    _check_jobs(report, nodes)
    _check_keyed_groups(report)


def _check_names(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    owners: dict[str, str] = {name: name for name in nodes}
    for name in nodes:
        loc: Loc = ("nodes", name)
        if not report.clean((*loc, "[key]")):
            continue
        if name in RESERVED:
            use = "a name that the cluster's own DNS serves" if name in SERVICE_NAMES else "a reserved name"
            report.add((*loc, "[key]"), f"is {use}: a node cannot be called so", f"like {name}1", value=name, at_key=True)
        elif name in GROUPS or name in _keys(report, "groups"):
            report.add((*loc, "[key]"), "is the name of a group: a node cannot be called so", f"like {name}1", value=name, at_key=True)
    for name, node in nodes.items():
        for index, alias in enumerate(node.aliases or []):
            index = _index(report.source.data["nodes"][name]["aliases"], alias, index)
            loc = ("nodes", name, "aliases", index)
            if alias in RESERVED:
                report.add(loc, "is a name that the cluster itself uses", value=alias)
            elif alias in owners:
                whose = "a name of this node already" if owners[alias] == name else f"a name of node {owners[alias]} already"
                report.add(loc, f"is {whose}", "every name belongs to one node", value=alias)
            owners.setdefault(alias, name)
    for group in _keys(report, "groups"):
        if group in (*GROUPS, "all", "ungrouped", "discovered"):
            report.add(("groups", group), "is a group of the plugin's own", "choose another name", at_key=True)


def _check_lengths(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    """What is named after the cluster, the domain or a node has room for the name."""
    certificate = f"it is the common name of a certificate, which has at most {COMMON_NAME} (RFC 5280)"
    room = INTERFACE - 1 - max(map(len, LINKS))
    if rack.lab and rack.cluster and len(rack.cluster) > room:
        rule = f"has {len(rack.cluster)} characters, in a lab at most {room} are allowed: with `-{LINKS[0]}` after it, it is the name of "
        report.add(("cluster",), f"{rule}an interface, which has at most {INTERFACE} (IFNAMSIZ)", value=rack.cluster)
    if rack.domain and len(rack.domain) > LONGEST_DOMAIN:
        rule = f"has {len(rack.domain)} characters, at most {LONGEST_DOMAIN} are allowed: with `{AUTHORITY}` after it, {certificate}"
        report.add(("domain",), rule, value=rack.domain)
    elif rack.domain:
        room = COMMON_NAME - 1 - len(rack.domain)
        for name, node in nodes.items():
            loc: Loc = ("nodes", name, "[key]")
            if node.type in CERTIFIED and len(name) > room and report.clean(loc):
                rule = f"has {len(name)} characters, at most {room} are allowed: with the domain {certificate}"
                report.add(loc, rule, value=name, at_key=True)


def _check_deployer(report: Report, nodes: dict[str, Node]) -> None:
    """What a controller needs of Python is made for systems of 64 bits. What a 2B runs, only the node knows."""
    for name, node in nodes.items():
        if node.type == "deployer" and node.board in ARMV6:
            rule = "is a board of 32 bits, and the software of a deployer is made for 64 bits only"
            report.add(("nodes", name, "board"), rule, "take a 3B or a later one", value=node.board)


def _check_counts(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    if not isinstance(report.source.data.get("nodes"), dict):
        return
    total = len(report.source.data["nodes"])
    if not total:
        report.add(("nodes",), "holds no nodes: 1 router, 1 deployer, 2 lanservices and at least 1 compute are needed", at_key=True)
    elif total > MAX_NODES:
        report.add(("nodes",), f"holds {total:,} nodes, at most {MAX_NODES:,} are allowed", at_key=True)
    if not 0 < total <= MAX_NODES:
        return
    members = {kind: [name for name, node in nodes.items() if node.type == kind] for kind in TYPES}
    unclear = total - sum(map(len, members.values()))
    lacking = []
    for kind, (low, high) in COUNTS.items():
        if len(members[kind]) + unclear < low:
            want = f"exactly {low}" if low == high else f"at least {low}"
            lacking.append((kind, f"needs {want} of type {kind}, and has {_few(members[kind])}"))
    for kind, (_low, high) in COUNTS.items():
        if len(members[kind]) > high:  # a node of the wrong type is one too many here and one too few there
            other = f"; it {lacking.pop(0)[1]}" if lacking else ""
            rule = f"makes one too many: the rack needs exactly {high} of type {kind}, and has {_few(members[kind])}{other}"
            report.add(("nodes", members[kind][-1], "type"), rule, value=kind)
    for kind, rule in lacking:
        report.add(("nodes", f"[{kind}]"), rule, "add one", at_key=True)


def _few(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:9])})" if names else "none"


def _check_switches(report: Report, nodes: dict[str, Node]) -> None:
    for name, node in nodes.items():
        for kind, keys in SWITCHES.items():
            for key in keys:
                if node.type and node.type != kind and key in report.source.data["nodes"][name]:
                    rule = f"is for nodes of type {kind}, and this one is a {node.type}"
                    report.add(("nodes", name, key), rule, "remove it", at_key=True)


def _check_macs(report: Report, nodes: dict[str, Node]) -> None:
    owners: dict[str, str] = {}
    for name, node in nodes.items():
        if node.mac and owners.setdefault(node.mac, name) != name:
            rule = f"is the MAC address of node {owners[node.mac]} already ({node.mac})"
            report.add(("nodes", name, "mac"), rule, "see `ip link` on each node", value=report.source.data["nodes"][name]["mac"])


def _check_serials(report: Report, nodes: dict[str, Node]) -> None:
    owners: dict[str, str] = {}
    for name, node in nodes.items():
        if node.serial and owners.setdefault(node.serial, name) != name:
            rule = f"is the serial number of node {owners[node.serial]} already"
            report.add(("nodes", name, "serial"), rule, "see `grep Serial /proc/cpuinfo` on each node", value=node.serial)


def _check_subnet(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    net = rack.network.subnet
    if not net:
        return
    loc: Loc = ("network", "subnet")
    for what, other in K3S_NETWORKS.items():
        if net.overlaps(other):
            report.add(loc, f"overlaps {other}, the network of k3s' {what}", "choose another one, like 10.77.0.0/24", value=str(net))
    placed = _placed(rack, nodes)
    inside = [address in net for address in placed]
    likely = _covering(placed)
    if inside.count(False) > 2 and (likely or sum(inside) < len(inside) / 2):
        likely = likely or Counter(IPv4Network((int(a) & 0xFFFFFF00, 24)) for a in placed).most_common(1)[0][0]
        rule = f"does not fit: {inside.count(False)} of the {len(inside)} addresses in this file lie outside of it"
        report.add(loc, rule, f"is it {likely}?", value=str(net))
    uplink = rack.lab.uplink if rack.lab else None
    if uplink and report.clean(loc) and net.overlaps(uplink):
        report.add(("lab", "uplink"), f"overlaps the LAN {net}", "set `lab.uplink` to another network", value=str(uplink))


def _check_addresses(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    """Every single address lies in the subnet, is no special one, and belongs to one machine."""
    net = rack.network.subnet if report.clean(("network", "subnet")) else None
    places: list[tuple[Loc, IPv4Address | None, str]]
    places = [(("nodes", name, "address"), node.address, f"node {name}") for name, node in nodes.items()]
    places.append((("network", "gateway"), rack.network.gateway, "the gateway"))
    places.append((("network", "vip"), rack.network.vip, "the VIP"))
    if rack.lab:
        places.append((("lab", "address"), rack.lab.address, "this host (lab.address)"))
    special = {net.network_address: "network", net.broadcast_address: "broadcast"} if net else {}
    owners: dict[IPv4Address, tuple[Loc, str]] = {}
    for loc, address, whose in places:
        if address is None:
            continue
        if net and address not in net:
            report.add(loc, f"lies outside of the subnet {net}", value=str(address))
        elif address in special:
            report.add(loc, f"is the {special[address]} address of the subnet {net}", "choose another one", value=str(address))
        elif address not in owners:
            owners[address] = loc, whose
        elif loc != ("network", "gateway"):  # which is the router's, see below
            other, owner = owners[address]
            report.add(loc, f"is the address of {owner} already", "every address belongs to one machine", also=(other,), value=str(address))


def _check_pool(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    pool, net, loc = rack.network.pool, rack.network.subnet, ("network", "pool")
    if not pool:
        return
    if net and report.clean(("network", "subnet")):
        outside = [str(end) for end in pool if end not in net]
        if outside:
            report.add(loc, f"lies outside of the subnet {net}: {', '.join(outside)}", value=str(pool))
            return
        if pool.start == net.network_address or pool.end == net.broadcast_address:
            which = "network" if pool.start == net.network_address else "broadcast"
            report.add(loc, f"includes the {which} address of the subnet {net}", value=str(pool))
            return
    taken = [("the VIP", ("network", "vip"), rack.network.vip)]
    taken += [(name, ("nodes", name, "address"), node.address) for name, node in nodes.items()]
    taken += [("this host (lab.address)", ("lab", "address"), rack.lab.address)] if rack.lab else []
    inside = [(who, where, str(each)) for who, where, each in taken if each and pool.start <= each <= pool.end and report.clean(where)]
    if len(inside) == 1:
        rule = f"lies in the DHCP pool {pool}, which is for machines that are not in this file"
        report.add(inside[0][1], rule, "choose an address outside of the pool", value=inside[0][2])
    elif inside:
        names = ", ".join(who for who, _where, _address in inside)
        rule = f"overlaps the addresses of {len(inside)}: {names}"
        also = tuple(where for _who, where, _address in inside)
        report.add(loc, rule, "the pool is for machines that are not in this file", also=also, value=str(pool))
    else:
        leases, size = max(len(nodes) - 1, 0), int(pool.end) - int(pool.start) + 1
        if size < leases + SPARE_LEASES:
            first = "the first leases of all nodes but the router, " if leases else ""
            rule = f"has {size} address{'es' if size > 1 else ''}, at least {leases + SPARE_LEASES} are needed: {first}"
            report.add(loc, rule + "one for a new machine, one for a declined lease", value=str(pool))


def _check_uplink(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    """The router stands between two networks: with one of both sides in the other, it would send nothing out."""
    net = rack.network.subnet if report.clean(("network", "subnet")) else None
    for name, node in nodes.items():
        loc: Loc = ("nodes", name, "uplink")
        if net and node.uplink and node.uplink in net and report.clean(loc):
            rule = f"lies in the cluster's own subnet {net}, and the router needs two networks: yours at home and the cluster's"
            report.add(loc, rule, "set `network.subnet` to another network", value=str(node.uplink))


def _check_gateway(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    routers = [name for name, node in nodes.items() if node.type == "router" and node.address]
    loc: Loc = ("network", "gateway")
    if len(routers) != 1 or not rack.network.gateway:
        return
    name = routers[0]
    if report.clean(loc, ("nodes", name, "address"), ("nodes", name, "type")) and nodes[name].address != rack.network.gateway:
        rule = f"is not the address of the router, node {name} ({nodes[name].address})"
        report.add(loc, rule, f"write {nodes[name].address}", value=str(rack.network.gateway))


def _check_upstream(report: Report, rack: Rack, nodes: dict[str, Node]) -> None:
    """Forwarders and time servers are outside: one that is the cluster itself makes a loop."""
    places = [(name, address) for name, node in nodes.items() for address in (node.address, node.uplink) if address]
    own: dict[Any, str] = {str(address): f"node {name}" for name, address in places}
    if rack.network.vip:
        own[str(rack.network.vip)] = "the VIP"
    raw = report.source.data["network"]
    for key, what, values in (("forwarders", "DNS", rack.network.forwarders), ("ntp", "NTP", rack.network.ntp)):
        for position, value in enumerate(values or []):
            index = _index(raw[key], value, position)
            loc = ("network", key, index)
            if value in own:
                rule = f"is {own[value]}: {what} would go in a loop (cluster -> {value} -> cluster)"
                report.add(loc, rule, "name a server outside of the cluster", value=value)
            elif rack.domain and not _is_address(value) and f".{value}".endswith(f".{rack.domain}"):
                rule = f"is a name in the cluster's own domain {rack.domain}: {what} would go in a loop"
                report.add(loc, rule, "name a server outside of the cluster", value=value)
            elif value in values[:position]:
                report.add(loc, "is in the list twice", "remove one of the two", value=value)


def _check_timers(report: Report, rack: Rack) -> None:
    """RFC 2131, section 4.4.5: T1 < T2 < the lease's lifetime; Kea: a heartbeat must fit into the wait for an answer."""
    for low, high in (("renew_timer", "rebind_timer"), ("rebind_timer", "valid_lifetime"), ("heartbeat_delay", "max_response_delay")):
        first, second = (getattr(rack.dhcp, key, None) for key in (low, high))
        written = report.source.data.get("dhcp")
        if first is None or second is None or first < second or not isinstance(written, dict):
            continue
        if not report.clean(("dhcp", low), ("dhcp", high)):
            continue
        if low in written:
            rule = f"must be less than {high}, which is {second}" + ("" if high in written else " by default")
            report.add(("dhcp", low), rule, value=first, also=(("dhcp", high),))
        else:
            report.add(("dhcp", high), f"must be more than {low}, which is {first} by default", value=second)


def _check_pairs(report: Report, nodes: dict[str, Node]) -> None:
    """The two lanservices nodes share the work: one DNS primary, two different priorities."""
    pair = [name for name, node in nodes.items() if node.type == "lanservices"]
    if len(pair) != 2:
        return
    first, second = pair
    parts = [nodes[name].dns for name in pair]
    written = [report.source.data["nodes"][name] for name in pair]
    known = [part is not None or "dns" not in raw for part, raw in zip(parts, written, strict=True)]
    if all(known) and parts[0] == parts[1] is not None:
        other = "secondary" if parts[0] == "primary" else "primary"
        report.add(("nodes", second, "dns"), f"is what node {first} is already", f"write {other}", value=parts[1])
    priorities = []
    for name, raw, default in zip(pair, written, (150, 100), strict=True):
        value = nodes[name].vrrp_priority
        if value is None and "vrrp_priority" in raw:
            return
        priorities.append(default if value is None else value)
    if priorities[0] == priorities[1]:
        name, other = (second, first) if "vrrp_priority" in written[1] else (first, second)
        rule = f"equals the priority of node {other}: neither would yield the VIP to the other"
        report.add(("nodes", name, "vrrp_priority"), rule, "the node that holds the VIP first has the higher one", value=priorities[0])


def _check_k3s(report: Report, nodes: dict[str, Node]) -> None:
    """An odd number of servers keeps a majority (etcd); there is no k3s for ARMv6."""
    servers = [name for name, node in nodes.items() if node.k3s == "server"]
    agents = [name for name, node in nodes.items() if node.k3s == "agent"]
    unclear = any(node.k3s is None and "k3s" in report.source.data["nodes"][name] for name, node in nodes.items())
    for name in (*servers, *agents):
        if nodes[name].board in ARMV6:
            rule = f"asks for k3s on a {nodes[name].board}, and there is no k3s for its ARMv6 processor"
            report.add(("nodes", name, "k3s"), rule, "write false, or take another node", value=nodes[name].k3s)
    bad = [name for name in (*servers, *agents) if not report.clean(("nodes", name, "k3s"))]
    if unclear or bad:
        return
    if servers and len(servers) % 2 == 0:
        rule = f"makes {len(servers)} servers ({', '.join(servers)}); a majority needs an odd number of them"
        report.add(("nodes", servers[-1], "k3s"), rule, "write agent, or add a server", value="server")
    elif agents and not servers:
        rule = f"makes an agent ({', '.join(agents)}), and no node of the file is a server"
        report.add(("nodes", agents[0], "k3s"), rule, "give one compute node `k3s: server`", value="agent")


def _check_jobs(report: Report, nodes: dict[str, Node]) -> None:
    """One node holds the folder that the others share; the first that may do it, unless the file says which."""
    members = [name for name, node in nodes.items() if node.type == "compute"]
    written = {name: nodes[name].jobs for name in members if "jobs" in report.source.data["nodes"][name]}
    if None in written.values() or not report.clean(*(("nodes", name, "jobs") for name in written)):
        return
    servers = [name for name, part in written.items() if part == "server"]
    clients = [name for name, part in written.items() if part == "client"]
    if len(servers) > 1:
        rule = f"makes {len(servers)} servers ({', '.join(servers[:9])}) of one shared folder"
        report.add(("nodes", servers[-1], "jobs"), rule, "keep one of them, and remove `jobs` from the others", value="server")
    elif clients and not servers and len(written) == len(members):
        rule = "leaves the shared folder without a server: no compute node is it, or may become it"
        report.add(("nodes", clients[0], "jobs"), rule, "write server", value="client")


def _check_keyed_groups(report: Report) -> None:
    """Ansible takes one of two ways for an empty value."""
    written = report.source.data.get("keyed_groups")
    for index, group in enumerate(written if isinstance(written, list) else ()):
        if isinstance(group, dict) and {"default_value", "trailing_separator"} <= group.keys():
            rule = "cannot stand beside `default_value`: Ansible takes one of the two for an empty value"
            report.add(("keyed_groups", index, "trailing_separator"), rule, "remove one of the two", at_key=True)


def _placed(rack: Rack, nodes: dict[str, Node]) -> list[IPv4Address]:
    found = [rack.network.gateway, rack.network.vip, *(rack.network.pool or ()), rack.lab.address if rack.lab else None]
    return [address for address in (*found, *(node.address for node in nodes.values())) if address]


def _covering(addresses: list[IPv4Address]) -> IPv4Network | None:
    """The smallest network from /24 to /22 that holds all ``addresses`` as hosts, if one does."""
    for prefix in (24, 23, 22):
        net = IPv4Network((addresses[0], prefix), strict=False)
        if all(net.network_address < address < net.broadcast_address for address in addresses):
            return net
    return None


def _keys(report: Report, name: str) -> list[str]:
    value = report.source.data.get(name)
    return list(value) if isinstance(value, dict) else []


def _walk(value: Any, loc: Loc) -> Iterator[tuple[Loc, Any]]:
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*loc, key), each
            if isinstance(each, dict | list):
                yield from _walk(each, (*loc, key))


def _is_expression(loc: Loc, value: Any) -> bool:
    """Whether a variable of ``compose`` is looked up somewhere, rather than a quoted text in clear."""
    return loc[0] == "compose" and len(loc) == 2 and isinstance(value, str) and not re.fullmatch(r"\s*(['\"]).*\1\s*", value)


def _is_address(value: str) -> bool:
    try:
        return bool(ip_address(value))
    except ValueError:
        return False


def _index(raw: list[Any], value: Any, position: int) -> int:
    """Where the ``position``-th right value of a list stands in the file's list, which may also hold wrong ones."""
    places = [index for index, each in enumerate(raw) if isinstance(each, str) and each.strip().lower() == str(value).lower()]
    return next((place for place in places if place >= position), places[-1] if places else position)
