# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from a rack, the good rack files, and the JSON Schema."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack import Inventory, derive, load_rack, rack_schema
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_rules import GROUPS
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_schema import ARMV6, Node, Rack

ROOT = Path(__file__).resolve().parents[8]
GOOD = sorted([*(ROOT / "tests/racks/good").glob("*.rack.yml"), *(ROOT / "inventory" / f"{name}.rack.yml" for name in ("lab", "example"))])
MISTAKES = yaml.safe_load((ROOT / "tests/racks/mistakes.yml").read_text())


@pytest.fixture
def lab(racks: Path) -> Inventory:
    return derive(load_rack(racks / "good/lab.rack.yml"))


@pytest.fixture
def full(racks: Path) -> Inventory:
    return derive(load_rack(racks / "good/everything.rack.yml"))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_good_racks_are_accepted_and_are_plain_data(path: Path) -> None:
    inventory = derive(load_rack(path))
    assert json.loads(json.dumps([inventory.all_vars, inventory.hosts])) == [inventory.all_vars, inventory.hosts]
    assert list(inventory.groups) == list(GROUPS)


def test_the_example_mixes_no_compilers() -> None:
    """An ARMv6 board makes objects of 32 bits, and distcc refuses such compute nodes; the others run a system of 64 bits."""
    inventory = derive(load_rack(ROOT / "inventory/example.rack.yml"))
    boards = {inventory.hosts[name]["rack_board"] for name in inventory.groups["distcc"]}
    assert boards
    assert not boards & set(ARMV6)


def test_everything_is_set_in_the_rack_that_sets_everything(racks: Path) -> None:
    rack = load_rack(racks / "good/everything.rack.yml")
    assert rack.model_fields_set == set(Rack.model_fields)
    assert set().union(*(node.model_fields_set for node in rack.nodes.values())) == set(Node.model_fields)


def test_groups_of_the_lab(lab: Inventory) -> None:
    pair, members = ["alpha", "beta"], ["gamma", "delta", "epsilon", "zeta"]
    assert {name: hosts for name, hosts in lab.groups.items() if hosts} == {
        "nodes": ["omega", "psi", *pair, *members],
        **{name: ["omega"] for name in ("router", "nat", "bootstrap")},
        **{name: ["psi"] for name in ("deployer", "apt_cache", "ca", "redis", "ara", "controller", "backup")},
        **dict.fromkeys(("lanservices", "dhcp", "ntp_server", "vip", "tftp", "httpd", "backup_copy"), pair),
        "dns_primary": ["alpha"],
        "dns_secondary": ["beta"],
        **dict.fromkeys(("compute", "distcc", "mpi", "jobs"), members),
        "jobs_server": ["gamma"],
        "k3s_server": ["gamma"],
        "k3s_agent": ["delta", "epsilon", "zeta"],
    }
    assert lab.children == {"dns": ("dns_primary", "dns_secondary"), "k3s": ("k3s_server", "k3s_agent")}


def test_switches_choose_the_functions(full: Inventory) -> None:
    assert full.groups["dns_primary"] == ["one"]
    assert full.groups["k3s_server"] == ["c1", "c2", "c3"]
    assert full.groups["k3s_agent"] == ["c4", "c6"]
    assert "c6" not in full.groups["distcc"]
    assert "c5" not in full.groups["mpi"]
    assert full.groups["jobs_server"] == ["c5"]
    assert full.groups["jobs"] == ["c1", "c2", "c3", "c4", "c5", "old"]
    assert full.hosts["old"]["rack_k3s"] is False
    assert full.hosts["old"]["rack_slots"] == 1


@pytest.mark.parametrize(
    ("parts", "server", "sharing"),
    [
        ({}, "gamma", ["gamma", "delta", "epsilon", "zeta"]),
        ({"gamma": "client"}, "delta", ["gamma", "delta", "epsilon", "zeta"]),
        ({"gamma": "false"}, "delta", ["delta", "epsilon", "zeta"]),
        ({"zeta": "server"}, "zeta", ["gamma", "delta", "epsilon", "zeta"]),
        (dict.fromkeys(("gamma", "delta", "epsilon", "zeta"), "false"), None, []),
    ],
)
def test_the_server_of_the_shared_folder(
    parts: dict[str, str], server: str | None, sharing: list[str], racks: Path, tmp_path: Path
) -> None:
    content = (racks / "good/lab.rack.yml").read_text()
    for name, part in parts.items():
        content = re.sub(rf"(  {name}: .*)}}", rf"\1, jobs: {part}}}", content)
    path = tmp_path / "x.rack.yml"
    path.write_text(content)
    inventory = derive(load_rack(path))
    assert inventory.groups["jobs_server"] == ([server] if server else [])
    assert [node["name"] for node in inventory.all_vars["rack_jobs_nodes"]] == inventory.groups["jobs"] == sharing
    assert (inventory.all_vars["rack_jobs_server"] or {}).get("name") == server


def test_variables_of_a_lanservices_node(lab: Inventory) -> None:
    assert lab.hosts["beta"] == {
        "ansible_host": "10.77.0.12",
        "rack_name": "beta",
        "rack_fqdn": "beta.lab.internal",
        "rack_type": "lanservices",
        "rack_address": "10.77.0.12",
        "rack_mac": "b8:27:eb:00:00:12",
        "rack_board": "B+",
        "rack_addressing": "static",
        "rack_uplink": None,
        "rack_slots": 1,
        "rack_aliases": [],
        "rack_functions": ["dhcp", "dns", "ntp_server", "vip", "tftp", "httpd", "backup_copy", "dns_secondary"],
        "rack_vrrp_priority": 100,
        "rack_dhcp_role": "standby",
        "rack_dns_role": "secondary",
        "rack_peers": [{"name": "alpha", "address": "10.77.0.11", "mac": "b8:27:eb:00:00:11"}],
    }


def test_variables_of_other_types(lab: Inventory, full: Inventory) -> None:
    assert lab.hosts["gamma"]["rack_addressing"] == "dhcp"
    assert lab.hosts["gamma"]["rack_k3s"] == "server"
    assert lab.hosts["omega"]["rack_uplink"] == "10.78.0.2"
    assert full.hosts["gate"]["rack_uplink"] == "192.168.99.7"
    assert full.hosts["gate"]["rack_mac"] == full.hosts["gate"]["rack_mac"].lower() == "dc:a6:32:00:00:01"
    assert {node["serial"] for node in full.all_vars["rack_nodes"] if node["name"] in ("c4", "c5")} == {None, "1a2b3c4d"}
    assert [full.hosts[name]["rack_vrrp_priority"] for name in ("two", "one")] == [20, 10]


def test_variables_of_all(lab: Inventory, racks: Path) -> None:
    home = racks  # the folder above the one that holds the file
    expected = {
        "rack_cluster": "lab",
        "rack_domain": "lab.internal",
        "rack_dyn_domain": "dyn.lab.internal",
        "rack_timezone": "Etc/UTC",
        "rack_ssh_user": "admin",
        "rack_ssh_private_key": f"{home}/.beowulf/lab/ssh/id_ed25519",
        "rack_state_dir": f"{home}/.beowulf/lab",
        "rack_lab": {"address": "10.77.0.254", "release": "trixie", "uplink": "10.78.0.0/24"},
        "rack_network": {
            "subnet": "10.77.0.0/24",
            "prefix": 24,
            "netmask": "255.255.255.0",
            "gateway": "10.77.0.1",
            "vip": "10.77.0.5",
            "pool_start": "10.77.0.200",
            "pool_end": "10.77.0.239",
            "forwarders": ["9.9.9.9", "1.1.1.1"],
            "ntp": ["0.debian.pool.ntp.org", "1.debian.pool.ntp.org"],
        },
        "rack_router": {"name": "omega", "address": "10.77.0.1"},
        "rack_deployer": {"name": "psi", "address": "10.77.0.10"},
        "rack_lanservices": [{"name": "alpha", "address": "10.77.0.11"}, {"name": "beta", "address": "10.77.0.12"}],
        "rack_ntp_servers": [{"name": "alpha", "address": "10.77.0.11"}, {"name": "beta", "address": "10.77.0.12"}],
        "rack_dns_primary": {"name": "alpha", "address": "10.77.0.11"},
        "rack_dns_secondaries": [{"name": "beta", "address": "10.77.0.12"}],
        "rack_jobs_server": {"name": "gamma", "address": "10.77.0.21"},
        "rack_k3s_servers": [{"name": "gamma", "address": "10.77.0.21"}],
        "rack_vrrp": {"router_id": 51, "advert_interval": 0.3},
        "rack_ca": {"user_hours": 16, "host_days": 60, "key_type": "ed25519"},
        "rack_registry": None,
    }
    assert {key: lab.all_vars[key] for key in expected} == expected
    assert lab.all_vars["rack_mpi_hosts"][0] == {"name": "gamma", "fqdn": "gamma.lab.internal", "address": "10.77.0.21", "slots": 4}
    assert lab.all_vars["rack_distcc_hosts"][3] == {"name": "zeta", "address": "10.77.0.24", "jobs": 4}
    assert [node["name"] for node in lab.all_vars["rack_nodes"]] == ["omega", "psi", "alpha", "beta", "gamma", "delta", "epsilon", "zeta"]


def test_jobs_of_distcc_go_to_those_with_most_cores_first(full: Inventory) -> None:
    """And to equals in the order of the file: clients prefer those that come first."""
    order = [(host["name"], host["jobs"]) for host in full.all_vars["rack_distcc_hosts"]]
    assert order == [("c4", 4), ("c5", 4), ("c1", 3), ("c2", 3), ("c3", 3), ("old", 1)]


def test_paths_of_keys(tmp_path: Path, racks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "inventory").mkdir()
    path = tmp_path / "inventory" / "x.rack.yml"
    for written, meant in (("~/k", "/home/me/k"), ("/k", "/k"), ("keys/k", f"{tmp_path}/keys/k")):
        path.write_text((racks / "good/lab.rack.yml").read_text() + f"ssh: {{private_key: {written}}}\n")
        assert derive(load_rack(path)).all_vars["rack_ssh_private_key"] == meant


def test_forward_zone(lab: Inventory) -> None:
    zone = lab.all_vars["rack_zones"][0]
    assert (zone["name"], zone["kind"]) == ("lab.internal", "forward")
    records = {(each["name"], each["type"], each["value"]) for each in zone["records"]}
    assert {("@", "NS", "ns1.lab.internal."), ("ns1", "A", "10.77.0.11"), ("ns2", "A", "10.77.0.12")} <= records
    assert {("vip", "A", "10.77.0.5"), ("zeta", "A", "10.77.0.24"), ("k3s", "A", "10.77.0.21")} <= records
    assert {("tftp", "A", "10.77.0.11"), ("tftp", "A", "10.77.0.12")} <= records
    assert {("ara", "CNAME", "psi.lab.internal."), ("gateway", "CNAME", "omega.lab.internal.")} <= records
    aliases = {name for name, kind, _value in records if kind == "CNAME"}
    assert not aliases & {name for name, kind, _value in records if kind != "CNAME"}  # RFC 1034, section 3.6.2
    assert len(records) == len(zone["records"])


@pytest.mark.parametrize(
    ("subnet", "zones"),
    [
        ("10.77.0.0/24", ["0.77.10.in-addr.arpa"]),
        ("10.77.0.0/16", ["77.10.in-addr.arpa"]),
        ("10.77.0.0/23", ["0.77.10.in-addr.arpa", "1.77.10.in-addr.arpa"]),
    ],
)
def test_reverse_zones_hold_every_address_once(subnet: str, zones: list[str], racks: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.rack.yml"
    path.write_text((racks / "good/lab.rack.yml").read_text().replace("10.77.0.0/24", subnet))
    inventory = derive(load_rack(path))
    reverse = [zone for zone in inventory.all_vars["rack_zones"] if zone["kind"] == "reverse"]
    assert [zone["name"] for zone in reverse] == zones
    found = {f"{each['name']}.{zone['name']}": each["value"] for zone in reverse for each in zone["records"] if each["type"] == "PTR"}
    expected = {ipaddress.ip_address(v["rack_address"]).reverse_pointer: f"{v['rack_fqdn']}." for v in inventory.hosts.values()}
    assert found == expected | {"5.0.77.10.in-addr.arpa": "vip.lab.internal."}


def test_reverse_zone_of_a_small_subnet(racks: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.rack.yml"
    path.write_text(
        (racks / "good/lab.rack.yml")
        .read_text()
        .replace("10.77.0.0/24", "10.77.0.0/26")
        .replace("200-10.77.0.239", "40-10.77.0.48")
        .replace("10.77.0.254", "10.77.0.62")
    )
    assert [zone["name"] for zone in derive(load_rack(path)).all_vars["rack_zones"]] == ["lab.internal", "0.77.10.in-addr.arpa"]


def test_a_large_rack_keeps_its_lists_in_one_place(racks: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.rack.yml"
    rows = [f'  n{i}: {{type: compute, address: 10.77.1.{i}, mac: "b8:27:ec:00:00:{i:02x}"}}' for i in range(1, 130)]
    content = (racks / "good/lab.rack.yml").read_text().replace("0.0/24", "0.0/16").replace("0.200-10.77.0.239", "2.0-10.77.2.255")
    path.write_text(content + "\n".join(rows) + "\n")
    inventory = derive(load_rack(path))
    assert len(inventory.hosts["psi"]["rack_nodes"]) == 137
    assert inventory.all_vars["rack_nodes"] == "{{ hostvars['psi']['rack_nodes'] }}"
    assert "rack_nodes" not in inventory.hosts["alpha"]
    assert not any(isinstance(value, list | dict) for value in inventory.all_vars.values())


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = rack_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_the_schema_accepts_good_racks(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


SINGLE_KEY = ["MAC", "subnet", "host name", "domain", "unknown word", "unknown or missing key", "timers", "CA", "VRRP", "YAML type"]
SINGLE_KEY += ["serial", "jobs"]


@pytest.mark.parametrize("kind", SINGLE_KEY)
def test_the_schema_rejects_what_a_single_key_shows(kind: str, racks: Path, validator: jsonschema.Draft202012Validator) -> None:
    rejected = 0
    for case in (case for case in MISTAKES if case["kind"] == kind):
        content = (racks / "good/lab.rack.yml").read_text()
        for old, new in case["change"].items():
            content = content.replace(old, new, 1)
        rejected += not validator.is_valid(json.loads(json.dumps(yaml.safe_load(content), default=str)))
    assert rejected >= 2


def test_the_schema_rejects_the_ten_mistakes(racks: Path, validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(yaml.safe_load((racks / "bad/ten.rack.yml").read_text()))


def test_the_schema_describes_every_key() -> None:
    schema = rack_schema()
    nodes = schema["$defs"]["Node"]["properties"]
    assert all(each.get("description") for each in [*nodes.values(), *schema["$defs"]["Network"]["properties"].values()])
    assert schema["$defs"]["Node"]["required"] == ["type", "address", "mac"]
