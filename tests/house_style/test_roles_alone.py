"""One role in a short playbook, with what it requires and nothing else: tests/roles/alone, which a reader can copy."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = sorted((ROOT / "tests/roles/alone").glob("*.yml"))
WANTED = {"dhcp", "distcc", "dns", "ntp"}


def options(role: str) -> dict:
    """Return the options of a role's main entry point."""
    return yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"][
        "options"
    ]


def test_there_is_one_for_each_of_them():
    assert {path.stem for path in PLAYBOOKS} == WANTED


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_a_playbook_gives_what_its_role_requires_and_nothing_else(path):
    [play] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(play) == {"name", "hosts", "roles"}
    [role] = play["roles"]
    assert role.pop("role") == path.stem
    assert set(role) == {name for name, option in options(path.stem).items() if option.get("required")}
    # A default that is a template is worked out on the node, where the role checks it.
    plain = {name: option for name, option in options(path.stem).items() if "{{" not in str(option.get("default"))}
    assert ArgumentSpecValidator(plain).validate(role).error_messages == []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) <= 15


def test_the_addresses_fit_each_other():
    [play] = yaml.safe_load((ROOT / "tests/roles/alone/dhcp.yml").read_text(encoding="utf-8"))
    dhcp = play["roles"][0]
    network = ipaddress.ip_network(dhcp["dhcp_subnet"])
    places = [
        dhcp["dhcp_address"],
        dhcp["dhcp_gateway"],
        *dhcp["dhcp_pool"].split(" - "),
        *(one["address"] for one in dhcp["dhcp_servers"]),
    ]
    assert all(ipaddress.ip_address(place) in network for place in places)
