"""The order in which a cluster is set up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SITES = [ROOT / "playbooks/site.yml", *sorted((ROOT / "molecule").glob("*/converge.yml"))]
TYPES = {"router", "deployer", "lanservices", "compute"}


def steps(path: Path) -> list[tuple[str, str]]:
    """Return (hosts, role) in the order in which a playbook and those that it imports apply them."""
    found = []
    for play in yaml.safe_load(path.read_text(encoding="utf-8")):
        if imported := play.get("ansible.builtin.import_playbook"):
            found += steps(path.parent / imported)
        else:
            found += [(play["hosts"], each["role"]) for each in play.get("roles", ())]
    return found


@pytest.mark.parametrize("site", SITES, ids=lambda path: path.parent.name)
def test_nobody_is_left_with_a_name_server_that_has_retired(site):
    """A vanilla node asks the bootstrap server, and nobody tells it when that has gone."""
    order = steps(site)
    retires = [number for number, step in enumerate(order) if step == ("bootstrap", "bootstrap")]
    if not retires:
        pytest.skip("here it does not retire")
    told = order.index(("nodes", "resolver"))
    assert order.index(("vip", "vip")) < told < retires[0]
    # What the resolver's role asks with is among the packages of every node.
    prepared = {
        "deployer" if group == "apt_cache" else group for hosts, role in order[:told] if role == "base" for group in hosts.split(":")
    }
    assert prepared == TYPES


@pytest.mark.parametrize("path", sorted((ROOT / "playbooks").glob("*.yml")), ids=lambda path: path.name)
def test_no_playbook_sets_up_a_stranger(path):
    """`all` has what the registry has seen in the LAN; `nodes` has what the rack file names."""
    patterns = [str(play["hosts"]) for play in yaml.safe_load(path.read_text(encoding="utf-8")) if "hosts" in play]
    assert not [pattern for pattern in patterns if re.search(r"(?<![!\w'])all\b(?!:!all)", pattern)]
