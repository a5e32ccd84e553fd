# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that follows from a rack, computed without side effects: groups, variables, DNS zones."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_rules import FUNCTIONS, GROUPS, NODES
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_schema import ARMV6, BOARDS, TYPES, Node, Rack

CHILDREN = {"dns": ("dns_primary", "dns_secondary"), "k3s": ("k3s_server", "k3s_agent")}
DYN_REVERSE_LIMIT = 256
"""Addresses of the pool up to which each gets a reverse zone."""
LARGE = 128
"""Above so many nodes, lists and mappings are variables of the deployer alone, and everyone else refers to them: repeated for
each of 10,000 hosts, as `ansible-inventory --list` does, the list of all nodes alone would fill 30 GB."""


@dataclass
class Inventory:
    """What Ansible is told: variables of all, groups with their hosts and children, variables of each host."""

    all_vars: dict[str, Any]
    hosts: dict[str, dict[str, Any]]
    groups: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in GROUPS})
    children: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(CHILDREN))


@dataclass(frozen=True)
class Roles:
    """Who does what, once the defaults are applied."""

    functions: dict[str, list[str]]
    primary: str
    secondary: str
    k3s: dict[str, str | bool]
    jobs_server: str | None


def derive(rack: Rack) -> Inventory:
    """Compute the inventory of ``rack``. Pure: it reads no file and asks no one (paths follow from the rack's own)."""
    roles = _assign(rack)
    hosts = {name: _host_vars(rack, roles, name, node) for name, node in rack.nodes.items()}
    inventory = Inventory(_all_vars(rack, roles), hosts)
    for name, node in rack.nodes.items():
        # Not by the groups of the types as children: they would have another depth than those of the functions, and their variables win.
        inventory.groups[NODES].append(name)
        inventory.groups[node.type].append(name)
        for function in roles.functions[name]:
            if function not in CHILDREN:
                inventory.groups[function].append(name)
    if len(hosts) > LARGE:
        deployer = inventory.groups["deployer"][0]
        for key, value in inventory.all_vars.items():
            if isinstance(value, list | dict):
                hosts[deployer][key] = value
                inventory.all_vars[key] = f"{{{{ hostvars['{deployer}']['{key}'] }}}}"
    return inventory


def _assign(rack: Rack) -> Roles:
    pair = [name for name, node in rack.nodes.items() if node.type == "lanservices"]
    first_is_primary = rack.nodes[pair[0]].dns == "primary" or (rack.nodes[pair[0]].dns is None and rack.nodes[pair[1]].dns != "primary")
    primary, secondary = pair if first_is_primary else reversed(pair)
    uses_k3s = any(node.k3s == "server" for node in rack.nodes.values())
    jobs_server = _jobs_server(rack)
    functions: dict[str, list[str]] = {}
    k3s: dict[str, str | bool] = {}
    for name, node in rack.nodes.items():
        own = list(FUNCTIONS[node.type])
        if node.type == "lanservices":
            own.append("dns_primary" if name == primary else "dns_secondary")
        if node.type == "compute":
            default = "agent" if uses_k3s and node.board not in ARMV6 else False
            k3s[name] = default if node.k3s is None else node.k3s
            own += [switch for switch in ("distcc", "mpi") if getattr(node, switch) is not False]
            own += ["jobs"] if node.jobs is not False else []
            own += ["jobs_server"] if name == jobs_server else []
            own += ["k3s", f"k3s_{k3s[name]}"] if k3s[name] else []
        functions[name] = own
    return Roles(functions, primary, secondary, k3s, jobs_server)


def _jobs_server(rack: Rack) -> str | None:
    """The node that holds /srv/jobs: the one that the file names, else the first that it says nothing of; None where nobody shares."""
    members = {name: node.jobs for name, node in rack.nodes.items() if node.type == "compute"}
    return next((name for part in ("server", None) for name, own in members.items() if own == part), None)


def _host_vars(rack: Rack, roles: Roles, name: str, node: Node) -> dict[str, Any]:
    address = str(node.address)
    own = {
        "ansible_host": address,
        "rack_name": name,
        "rack_fqdn": f"{name}.{rack.domain}",
        "rack_type": node.type,
        "rack_address": address,
        "rack_mac": node.mac,
        "rack_board": node.board,
        "rack_addressing": "dhcp" if node.type == "compute" else "static",
        "rack_uplink": _uplink(rack, node),
        "rack_slots": _slots(node),
        "rack_aliases": node.aliases,
        "rack_functions": roles.functions[name],
    }
    if node.type == "compute":
        own["rack_k3s"] = roles.k3s[name]
    if node.type == "lanservices":
        pair = [other for other, each in rack.nodes.items() if each.type == "lanservices"]
        own["rack_vrrp_priority"] = node.vrrp_priority or (150 if name == pair[0] else 100)
        own["rack_dhcp_role"] = "primary" if name == roles.primary else "standby"
        own["rack_dns_role"] = "primary" if name == roles.primary else "secondary"
        own["rack_peers"] = [{**_place(rack, other), "mac": rack.nodes[other].mac} for other in pair if other != name]
    return own


def _all_vars(rack: Rack, roles: Roles) -> dict[str, Any]:
    by_type = {kind: [name for name, node in rack.nodes.items() if node.type == kind] for kind in TYPES}
    ordered = sorted(rack.nodes, key=lambda name: rack.nodes[name].address)
    home = os.path.dirname(os.path.dirname(os.path.abspath(rack.path)))
    state = os.path.join(home, ".beowulf", rack.cluster)
    key = rack.ssh.private_key or os.path.join(state, "ssh", "id_ed25519")
    network = rack.network

    def doing(function: str) -> list[str]:
        return [name for name in rack.nodes if function in roles.functions[name]]

    return {
        "rack_cluster": rack.cluster,
        "rack_domain": rack.domain,
        "rack_dyn_domain": f"dyn.{rack.domain}",
        "rack_dyn_reverse_zones": _dyn_reverse_zones(rack),
        "rack_timezone": rack.timezone,
        "rack_ssh_user": rack.ssh.user,
        "rack_ssh_private_key": os.path.normpath(os.path.join(home, os.path.expanduser(key))),
        "rack_state_dir": state,
        "rack_lab": _lab(rack),
        "rack_network": {
            "subnet": str(network.subnet),
            "prefix": network.subnet.prefixlen,
            "netmask": str(network.subnet.netmask),
            "gateway": str(network.gateway),
            "vip": str(network.vip),
            "pool_start": str(network.pool.start),
            "pool_end": str(network.pool.end),
            "forwarders": network.forwarders,
            "ntp": network.ntp,
        },
        "rack_nodes": [_node_entry(rack, roles, name) for name in ordered],
        "rack_zones": _zones(rack, roles, by_type, ordered),
        "rack_router": _place(rack, by_type["router"][0]),
        "rack_deployer": _place(rack, by_type["deployer"][0]),
        "rack_lanservices": [_place(rack, name) for name in by_type["lanservices"]],
        "rack_dhcp_servers": [
            {**_place(rack, name), "role": "primary" if name == roles.primary else "standby"} for name in by_type["lanservices"]
        ],
        "rack_dns_primary": _place(rack, roles.primary),
        "rack_dns_secondaries": [_place(rack, roles.secondary)],
        "rack_ntp_servers": [_place(rack, name) for name in by_type["lanservices"]],
        "rack_mpi_hosts": [
            {"name": name, "fqdn": f"{name}.{rack.domain}", "address": str(rack.nodes[name].address), "slots": _slots(rack.nodes[name])}
            for name in doing("mpi")
        ],
        # A client prefers the hosts that come first.
        "rack_distcc_hosts": [
            {**_place(rack, name), "jobs": _slots(rack.nodes[name])}
            for name in sorted(doing("distcc"), key=lambda name: _slots(rack.nodes[name]), reverse=True)
        ],
        "rack_jobs_server": _place(rack, roles.jobs_server) if roles.jobs_server else None,
        "rack_jobs_nodes": [_place(rack, name) for name in doing("jobs")],
        "rack_k3s_servers": [_place(rack, name) for name in doing("k3s_server")],
        "rack_k3s_agents": [_place(rack, name) for name in doing("k3s_agent")],
        "rack_vrrp": rack.vrrp.model_dump(),
        "rack_dhcp": rack.dhcp.model_dump(),
        "rack_ca": rack.ca.model_dump(),
        "rack_registry": rack.registry,
    }


def _node_entry(rack: Rack, roles: Roles, name: str) -> dict[str, Any]:
    node = rack.nodes[name]
    return {
        "name": name,
        "fqdn": f"{name}.{rack.domain}",
        "type": node.type,
        "address": str(node.address),
        "mac": node.mac,
        "board": node.board,
        "serial": node.serial,
        "aliases": node.aliases,
        "functions": roles.functions[name],
        "addressing": "dhcp" if node.type == "compute" else "static",
    }


def _uplink(rack: Rack, node: Node) -> str | None:
    if node.type == "router" and rack.lab and not node.uplink:
        return str(rack.lab.uplink[2])
    return str(node.uplink) if node.uplink else None


def _place(rack: Rack, name: str) -> dict[str, str]:
    return {"name": name, "address": str(rack.nodes[name].address)}


def _lab(rack: Rack) -> dict[str, str] | None:
    lab = rack.lab
    return {"address": str(lab.address), "release": lab.release, "uplink": str(lab.uplink)} if lab else None


def _slots(node: Node) -> int:
    return node.slots or BOARDS[node.board]


def _zones(rack: Rack, roles: Roles, by_type: dict[str, list[str]], ordered: list[str]) -> list[dict[str, Any]]:
    """The forward zone and the reverse zones. Names are relative to their zone (``@`` is the zone itself), values of NS, CNAME
    and PTR are absolute. Name servers and whatever has several holders are A records: an NS must not point to an alias
    (RFC 2181, section 10.3)."""
    domain, network = rack.domain, rack.network
    servers = {"ns1": rack.nodes[roles.primary].address, "ns2": rack.nodes[roles.secondary].address}
    name_servers = [_record("@", "NS", f"{server}.{domain}.") for server in servers]
    forward = [*name_servers]
    forward += [_record(name, "A", rack.nodes[name].address) for name in ordered]
    forward += [_record("vip", "A", network.vip), _record("status", "A", network.vip)]
    forward += [_record(server, "A", address) for server, address in servers.items()]
    forward += [_record(service, "A", rack.nodes[name].address) for service in ("ntp", "tftp") for name in by_type["lanservices"]]
    forward += [_record("k3s", "A", rack.nodes[name].address) for name in ordered if "k3s_server" in roles.functions[name]]
    forward += [_record(alias, "CNAME", f"{by_type['router'][0]}.{domain}.") for alias in ("gateway", "router")]
    forward += [_record(alias, "CNAME", f"{by_type['deployer'][0]}.{domain}.") for alias in ("ara", "deployer")]
    forward += [_record(alias, "CNAME", f"{name}.{domain}.") for name in ordered for alias in rack.nodes[name].aliases]
    holders = [(network.vip, "vip"), *((rack.nodes[name].address, name) for name in ordered)]
    reverse = {zone: [*name_servers] for zone in _reverse_zones(network.subnet)}
    for address, name in sorted(holders):
        zone = next(zone for zone in _zone_candidates(address) if zone in reverse)
        relative = address.reverse_pointer[: -len(zone) - 1]
        reverse[zone].append(_record(relative, "PTR", f"{name}.{domain}."))
    return [
        {"name": domain, "kind": "forward", "records": forward},
        *({"name": zone, "kind": "reverse", "records": records} for zone, records in reverse.items()),
    ]


def _dyn_reverse_zones(rack: Rack) -> list[str]:
    """A reverse zone for each address of the pool, so that its name may change while the zone around it is written by a deploy;
    none for a pool that is too large for that."""
    first, last = int(rack.network.pool.start), int(rack.network.pool.end)
    return [IPv4Address(number).reverse_pointer for number in range(first, last + 1)] if last - first < DYN_REVERSE_LIMIT else []


def _record(name: str, kind: str, value: Any) -> dict[str, str]:
    return {"name": name, "type": kind, "value": str(value)}


def _reverse_zones(network: IPv4Network) -> list[str]:
    """The in-addr.arpa zones (RFC 1035, section 3.5), cut at an octet, that cover ``network``: one for /16 and for /24 and
    longer, as many /24 as it takes in between."""
    if network.prefixlen > 24:
        parts = [network.supernet(new_prefix=24)]
    else:
        parts = list(network.subnets(new_prefix=16 if network.prefixlen == 16 else 24))
    octets = 2 if network.prefixlen == 16 else 3
    return [".".join(reversed(str(part.network_address).split(".")[:octets])) + ".in-addr.arpa" for part in parts]


def _zone_candidates(address: IPv4Address) -> tuple[str, str]:
    pointer = address.reverse_pointer
    return pointer.split(".", 1)[1], pointer.split(".", 2)[2]
