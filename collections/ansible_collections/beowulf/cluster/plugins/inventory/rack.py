# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory plugin: a thin layer between Ansible and plugin_utils/rack.py, which does the work without it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rack
short_description: One rack file as the inventory of a beowulf cluster
version_added: 0.1.0
author:
  - The beowulf project
description:
  - Reads a rack file, which says what machines there are, refuses what is wrong in it, and derives everything else.
  - All mistakes of a file are reported at once, each with its line, its key, the rule and a hint. No node is asked.
  - The file's name must end in C(.rack.yml) or C(.rack.yaml).
  - Every node is in the group C(nodes), in that of its type (C(router), C(deployer), C(lanservices), C(compute)) and in the groups of
    its functions. C(nodes) has what the file names, and nothing that O(registry) adds.
  - C(nat) and C(bootstrap) hold the router; C(apt_cache), C(redis), C(ara), C(controller) and C(backup) the deployer; C(dhcp), C(dns)
    (with C(dns_primary) and C(dns_secondary)), C(ntp_server), C(vip), C(tftp), C(httpd) and C(backup_copy) the two lanservices nodes;
    C(distcc), C(mpi), C(jobs) (with C(jobs_server), one of them) and C(k3s) (with C(k3s_server) and C(k3s_agent)) the compute nodes that
    have them switched on.
  - "Variables of every host are C(rack_cluster), C(rack_domain), C(rack_dyn_domain), C(rack_timezone), C(rack_ssh_user),
    C(rack_ssh_private_key), C(rack_state_dir), C(rack_lab), C(rack_network), C(rack_nodes), C(rack_zones), C(rack_router),
    C(rack_deployer), C(rack_lanservices), C(rack_dhcp_servers), C(rack_dns_primary), C(rack_dns_secondaries),
    C(rack_ntp_servers), C(rack_mpi_hosts), C(rack_distcc_hosts), C(rack_jobs_server), C(rack_jobs_nodes), C(rack_k3s_servers),
    C(rack_k3s_agents), C(rack_vrrp), C(rack_dhcp), C(rack_ca), C(rack_registry)."
  - "Variables of each host are C(ansible_host), C(rack_name), C(rack_fqdn), C(rack_type), C(rack_address), C(rack_mac),
    C(rack_board), C(rack_addressing), C(rack_uplink), C(rack_slots), C(rack_aliases), C(rack_functions); of a compute node
    also C(rack_k3s); of a lanservices node also C(rack_vrrp_priority), C(rack_dhcp_role), C(rack_dns_role),
    C(rack_peers)."
  - In a rack of more than 128 nodes the lists and mappings among the variables of every host are variables of the deployer alone.
    Everywhere else they are templates that look there, so that a play sees the same, and C(ansible-inventory --list) does
    not repeat them for each host.
requirements:
  - pydantic >= 2 (on the controller)
  - redis (on the controller, for O(registry) only)
extends_documentation_fragment:
  - constructed
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [beowulf.cluster.rack]
  cluster:
    description:
      - Name of the cluster, one DNS label. It is the prefix of its containers, its label in ARA and the id of its vault.
      - With O(lab) it has at most 11 characters, because interfaces are named after it.
    type: str
    required: true
  domain:
    description:
      - The cluster's own DNS domain, of two labels or more. C(.internal) is reserved for private use; C(.local) is refused.
      - It has at most 51 characters, because certificates are named after it.
    type: str
    required: true
  network:
    description: The one LAN that all nodes share.
    type: dict
    required: true
    suboptions:
      subnet:
        description: The LAN, a private IPv4 network (RFC 1918) from /16 to /29.
        type: str
        required: true
      gateway:
        description: The LAN address of the router node.
        type: str
        required: true
      vip:
        description: The floating address that one of the two lanservices nodes holds.
        type: str
        required: true
      pool:
        description:
          - The addresses that DHCP gives to machines which are not in the file, C(FIRST-LAST).
          - In a first deploy every node but the router takes its first lease there, so it needs one address more than there are nodes.
        type: str
        required: true
      forwarders:
        description: DNS servers outside, by address. Without any, names are resolved from the root servers.
        type: list
        elements: str
        default: []
      ntp:
        description: Time servers outside, by name or address. Without any, the cluster keeps its own time.
        type: list
        elements: str
        default: []
  nodes:
    description:
      - The machines. Each key is a host name, one DNS label in lower case.
      - There must be 1 router, 1 deployer, 2 lanservices and at least 1 compute node, at most 10,000 in all.
      - The suboptions are those of each node.
    type: dict
    required: true
    suboptions:
      type:
        description: What the node is for.
        type: str
        required: true
        choices: [router, deployer, lanservices, compute]
      address:
        description: The node's address in the LAN.
        type: str
        required: true
      mac:
        description: The Ethernet address of the node's LAN interface, whatever its name.
        type: str
        required: true
      board:
        description: The Raspberry Pi model, or V(generic) for any other Debian machine.
        type: str
        default: generic
        choices: [A+, B, B+, Zero, Zero W, CM1, 2B, 3A+, 3B, 3B+, 4B, "5", "400", "500", CM3, CM4, CM5, Zero 2 W, generic]
      serial:
        description:
          - The serial number of a Raspberry Pi, 8 hexadecimal digits in lower case, unique in the rack.
          - When it boots from the LAN, its boot ROM looks for files in the folder of this name first.
        type: str
      aliases:
        description: More names for the node in DNS.
        type: list
        elements: str
        default: []
      k3s:
        description:
          - The part of a compute node in Kubernetes, V(server), V(agent) or V(false). The number of servers must be odd.
          - By default V(agent) when another node is a server and the board is not ARMv6, else V(false).
        type: raw
      uplink:
        description:
          - The router's address outside the LAN, where the controller meets it first. It must not lie in O(network.subnet).
          - By default the third address of the network O(lab.uplink) in the lab; elsewhere the router has to be at its LAN address.
        type: str
      distcc:
        description: Whether a compute node compiles for the others. True by default.
        type: bool
      mpi:
        description: Whether MPI runs on a compute node. True by default.
        type: bool
      jobs:
        description:
          - The part of a compute node in the shared storage C(/srv/jobs), V(server), V(client) or V(false). At most one is the server.
          - By default V(client); when no node is the server, the first one without this key.
        type: raw
      slots:
        description: How many processes a compute node runs at once. By default 1 on an ARMv6 board, else 4.
        type: int
      dns:
        description: The part of a lanservices node in DNS. By default the first one in the file is the primary.
        type: str
        choices: [primary, secondary]
      vrrp_priority:
        description:
          - The lanservices node with the higher number (1 to 254) holds the VIP first.
          - By default 150 for the first one in the file, 100 for the second.
        type: int
  ssh:
    description: How the controller reaches the nodes.
    type: dict
    default: {}
    suboptions:
      user:
        description: The account on every node, with sudo and without a password; not C(root).
        type: str
        default: admin
      private_key:
        description:
          - The path of the private key; a relative one starts at the repository.
          - By default C(.beowulf/CLUSTER/ssh/id_ed25519) in the repository, the folder above the one that holds the rack file.
        type: path
  lab:
    description: Its presence says that the nodes are containers on this host.
    type: dict
    suboptions:
      address:
        description: The address that this host takes in the LAN.
        type: str
        required: true
      release:
        description: The Debian release of the containers. The LAN services run on no older one.
        type: str
        default: trixie
        choices: [trixie]
      uplink:
        description: The network between this host and the router's container, by which the LAN reaches the outside.
        type: str
        default: 10.78.0.0/24
  vrrp:
    description: The floating address.
    type: dict
    default: {}
    suboptions:
      router_id:
        description: The virtual router id, 1 to 255, unique in the LAN.
        type: int
        default: 51
      advert_interval:
        description: Seconds between advertisements, 0.01 to 40.95.
        type: float
        default: 0.3
  dhcp:
    description: The timers of DHCP and of its hot standby.
    type: dict
    default: {}
    suboptions:
      valid_lifetime:
        description: Seconds that a node's lease lasts.
        type: int
        default: 3600
      renew_timer:
        description: Seconds until a node renews its lease. Less than rebind_timer.
        type: int
        default: 900
      rebind_timer:
        description: Seconds until a node asks any server. Less than valid_lifetime.
        type: int
        default: 1800
      pool_lifetime:
        description: Seconds that a lease of the pool lasts.
        type: int
        default: 300
      heartbeat_delay:
        description: Milliseconds between the heartbeats of the two servers. Less than max_response_delay.
        type: int
        default: 1000
      max_response_delay:
        description: Milliseconds of silence after which a server takes its partner for dead.
        type: int
        default: 4000
  ca:
    description: What the certificate authority issues.
    type: dict
    default: {}
    suboptions:
      user_hours:
        description: Hours that a user's SSH certificate lasts, 1 to 168.
        type: int
        default: 16
      host_days:
        description: Days that a host's SSH certificate lasts, 1 to 365.
        type: int
        default: 60
      key_type:
        description: The type of every key.
        type: str
        default: ed25519
        choices: [ed25519]
  timezone:
    description: The time zone of every node, by a name that Debian 13 has, such as V(America/New_York), and not V(US/Eastern).
    type: str
    default: Etc/UTC
  registry:
    description:
      - The Redis where the leases of unknown machines are noted, C(redis://HOST[:PORT][/DB]), or C(rediss://) for TLS.
      - >-
        With one, the deployer asks the DHCP servers every ten minutes and notes what they say (C(invoke registry.fill)). Its own Redis,
        C(redis://127.0.0.1:6379/0), listens on loopback alone: there the deployer finds them, and another controller warns that it is down.
      - Machines that it has seen and the file does not know become hosts of the group C(discovered), named after their MAC address,
        with C(ansible_host), C(discovered_address), C(discovered_mac), C(discovered_hostname) and C(discovered_seen).
      - What strangers say of themselves is checked, never trusted as a template, and not given to O(compose), O(groups) or O(keyed_groups).
      - A registry that is down costs one warning and at most a second.
    type: str
  registry_password:
    description: The password of O(registry). It has no place in a rack file.
    type: str
    env:
      - name: BEOWULF_REGISTRY_PASSWORD
  registry_password_file:
    description:
      - File with the password of O(registry), which belongs to the user who runs Ansible and which nobody else may read.
      - The deployer has one for its own Redis, which serves the fact cache as well. O(registry_password) goes before it.
    type: path
    env:
      - name: BEOWULF_REDIS_PASSWORD_FILE
  strict:
    description: Whether a wrong expression in O(compose), O(groups) or O(keyed_groups) stops the run.
    type: bool
    default: true
"""

EXAMPLES = r"""
# home.rack.yml
plugin: beowulf.cluster.rack
cluster: home
domain: home.internal
network:
  subnet: 192.168.50.0/24
  gateway: 192.168.50.1
  vip: 192.168.50.5
  pool: 192.168.50.200-192.168.50.239
  forwarders: [9.9.9.9]
  ntp: [0.debian.pool.ntp.org]
nodes:
  gate:  {type: router,      address: 192.168.50.1,  mac: "dc:a6:32:00:00:01", board: 4B}
  desk:  {type: deployer,    address: 192.168.50.10, mac: "dc:a6:32:00:00:10", board: 4B}
  left:  {type: lanservices, address: 192.168.50.11, mac: "b8:27:eb:00:00:11", board: B+}
  right: {type: lanservices, address: 192.168.50.12, mac: "b8:27:eb:00:00:12", board: B+}
  node1: {type: compute,     address: 192.168.50.21, mac: "b8:27:eb:00:00:21", board: 3B, k3s: server}
  node2: {type: compute,     address: 192.168.50.22, mac: "b8:27:eb:00:00:22", board: 3B, distcc: false}

# Groups of one's own: board_3B, board_4B, ...
keyed_groups:
  - key: rack_board
    prefix: board

# Strangers in the LAN become the group `discovered`
registry: redis://127.0.0.1:6379/0
"""

from functools import lru_cache
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable
from ansible.template import trust_as_template

from ansible_collections.beowulf.cluster.plugins.plugin_utils import password_file

try:
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack import Inventory, Rack, RackError, check_place, derive, load_rack
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_registry import RegistryDown, discovered, fetch_leases
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_rules import GROUPS
except ImportError as exc:
    raise AnsibleParserError(f"the inventory plugin beowulf.cluster.rack needs pydantic on the controller: {exc}") from exc


class InventoryModule(BaseInventoryPlugin, Constructable):
    """Read a rack file, build the inventory from it, add it."""

    NAME = "beowulf.cluster.rack"

    # A rack file belongs to the operator, and every text in it was checked. What the registry says is added around this.
    trusted_by_default = True

    def verify_file(self, path: str) -> bool:
        """Whether ``path`` is readable and named like a rack file."""
        return super().verify_file(path) and path.endswith((".rack.yml", ".rack.yaml"))

    def parse(self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True) -> None:
        """Add the rack at ``path`` to ``inventory``; all mistakes of the file are one AnsibleParserError."""
        super().parse(inventory, loader, path, cache)
        self._want_one(path)
        try:
            rack = load_rack(path)
            check_place(rack)
        except RackError as exc:
            raise AnsibleParserError(str(exc)) from exc
        written = rack.model_dump(exclude_unset=True, include=set(Rack.model_fields) - {"network", "nodes"})
        self.set_options(direct=_trusted(written) | {"network": {}, "nodes": {}}, var_options=self._vars)
        self._add(derive(rack))
        self._construct(rack, path)
        if rack.registry:
            self._discover(rack)

    def _want_one(self, path: str) -> None:
        """Refuse a second rack: their nodes would share names, groups and the variables of all."""
        known = (host.get_vars() for host in self.inventory.hosts.values())
        first = next((variables.get("inventory_file", path) for variables in known if "rack_name" in variables), path)
        if first != path:
            raise AnsibleParserError(
                f"{path} is a second rack: {first} is read already, and an inventory has one. Name one of the two with -i."
            )

    def _add(self, data: Inventory) -> None:
        for name in (*data.groups, "discovered"):
            self.inventory.add_group(name)
        for parent, children in data.children.items():
            for child in children:
                self.inventory.add_child(parent, child)
        for name, value in data.all_vars.items():
            self.inventory.set_variable("all", name, value)
        for host, variables in data.hosts.items():
            self._add_host(host, _trusted(variables))
        for name, hosts in data.groups.items():
            for host in hosts:
                self.inventory.add_child(name, host)

    def _construct(self, rack: Rack, path: str) -> None:
        compose, groups, keyed_groups = (self.get_option(name) for name in ("compose", "groups", "keyed_groups"))
        if not (compose or groups or keyed_groups):
            return
        strict = self.get_option("strict")
        derived = self._hosts_of_groups() if keyed_groups else {}
        common = self.inventory.groups["all"].get_vars()
        for host in rack.nodes:
            self._set_composite_vars(compose, common | self.inventory.get_host(host).get_vars(), host, strict=strict)
            variables = common | self.inventory.get_host(host).get_vars()
            self._add_host_to_composed_groups(groups, variables, host, strict=strict, fetch_hostvars=False)
            self._add_host_to_keyed_groups(keyed_groups, variables, host, strict=strict, fetch_hostvars=False)
        # The playbooks would set up on a node what it is not.
        for name, hosts in sorted((self._hosts_of_groups() if keyed_groups else {}).items()):
            if added := sorted(hosts - derived[name]):
                shown = ", ".join(added[:3]) + (", ..." if len(added) > 3 else "")
                what = f"keyed_groups puts {shown} into {name}, which is a group of the plugin's own"
                raise AnsibleParserError(f"{path}: {what}\n    hint: give that one another prefix or parent_group")

    def _hosts_of_groups(self) -> dict[str, set[str]]:
        """Return the hosts of each group of the plugin's own, those of its children among them; another inventory may have groups, too."""
        own = {*GROUPS, "discovered"} & set(self.inventory.groups)
        return {name: {host.name for host in self.inventory.groups[name].get_hosts()} for name in own}

    def _discover(self, rack: Rack) -> None:
        try:
            leases = fetch_leases(rack.registry, rack.cluster, self._registry_password())
        except (RegistryDown, password_file.PasswordFileError) as exc:
            self.display.warning(f"The registry is down, strangers in the LAN are not in the inventory: {exc}")
            return
        strangers, wrong = discovered(rack, leases)
        if wrong:
            entries = f"{wrong} entries that are no leases of {rack.network.subnet}"
            self.display.warning(f"The registry {rack.registry} holds {entries}; left out.")
        for host, variables in strangers.items():
            self._add_host(host, variables)
            self.inventory.add_child("discovered", host)

    def _registry_password(self) -> str | None:
        path = self.get_option("registry_password_file")
        return self.get_option("registry_password") or (password_file.read(path) if path else None)

    def _add_host(self, name: str, variables: dict[str, Any]) -> None:
        """Add a host with its variables as they are, past InventoryData's marking of every text as trusted and where it came
        from: that would trust strangers, and takes half the time of a large rack."""
        self.inventory.add_host(name)
        host = self.inventory.get_host(name)
        for key, value in variables.items():
            host.set_variable(key, value)


_trusted_text = lru_cache(4096)(trust_as_template)  # many hosts share a type, a board, their functions


def _trusted(value: Any) -> Any:
    """``value`` with every text in it marked as the operator's own."""
    if isinstance(value, str):
        return _trusted_text(value)
    if isinstance(value, dict):
        return {key: _trusted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_trusted(each) for each in value]
    return value
