"""What every role has in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_is_described_and_has_its_value(role):
    specs = read(role / "meta" / "argument_specs.yml")["argument_specs"]
    options = {name: option for spec in specs.values() for name, option in spec["options"].items()}
    defaults = read(role / "defaults" / "main.yml")
    assert set(options) == set(defaults)
    for name, option in options.items():
        assert option.get("description"), f"{name} is not described"
        # A default that is worked out on the node stands in defaults/ alone.
        assert option.get("default", defaults[name]) == defaults[name], f"{name} has two defaults"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_knows_neither_the_rack_nor_a_group(role):
    for path in [*role.rglob("*.yml"), *role.rglob("*.j2")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\brack_", text), f"{path} reads what the rack plugin derived"
        assert not re.search(r"\bgroups[\[.]", text), f"{path} reads a group"


def test_nothing_switches_host_keys_off_or_ignores_errors():
    for folder in ("roles", "playbooks", "inventory"):
        for path in (ROOT / folder).rglob("*.y*ml"):
            text = path.read_text(encoding="utf-8")
            assert "ignore_errors" not in text, path
            assert "StrictHostKeyChecking=no" not in text, path


def test_what_is_prefetched_is_installed_by_a_role():
    """The list is written down twice because a role's own is not known before it runs."""
    parts = [path for role in ROLES for folder in ("defaults", "tasks", "vars") for path in (role / folder).rglob("*.yml")]
    named = set(re.findall(r"[\w.+-]+", "\n".join(path.read_text(encoding="utf-8") for path in parts)))
    variables = [read(path) for path in (ROOT / "inventory" / "group_vars").glob("*.yml")]
    lists = [set(found["prefetch_packages"]) for found in variables if "prefetch_packages" in found]
    prefetched = set().union(*lists)
    assert prefetched
    assert prefetched <= named, "no role installs these"
    assert set(read(ROOT / "roles/distcc/vars/main.yml")["__distcc_packages"]) <= prefetched
    assert set(read(ROOT / "roles/mpi/defaults/main.yml")["mpi_python_packages"]) <= prefetched
