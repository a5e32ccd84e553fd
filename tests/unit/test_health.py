"""One opinion: `./bootstrap status` and the status page say the same of the same cluster, and have it from the same rules."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.module_utils import health
from beowulf.health import judgement, readings
from beowulf.process import ROOT

ZONE = "lab.internal"


@pytest.fixture(scope="module")
def page(load):
    return load(ROOT / "roles/httpd/files/usr/local/lib/beowulf/status-page.py")


def told_by_status(state, partner, offset, serials):
    """What the operator is told of these two servers, without what no server can see of the pair."""
    node = {"type": "lanservices", "up": True, "addresses": [], "uptime": 1.0, "unanswered": ["watch", "pair"]}
    nodes = {"alpha": node | {"dhcp": state, "clock": offset, "addresses": ["10.77.0.5"]}, "beta": node | {"dhcp": partner, "clock": 0.0}}
    found = judgement.judge({"cluster": "lab", "vip": "10.77.0.5", "nodes": nodes, "lanservices": ["alpha", "beta"], "last_run": None,
                             "serials": {ZONE: serials}})["problems"]  # fmt: skip
    subjects = ("DHCP on alpha", "DHCP on beta", "DNS on alpha", "DNS on beta", "different versions", "the clock of alpha")
    return [any(subject in problem for problem in found) for subject in subjects]


def told_by_page(page, state, partner, offset, serials):
    """What the page of alpha says of the same."""
    status = {"server": "alpha", "vip": {"address": "10.77.0.5", "held": True, "answered_by": "alpha"},
              "dhcp": {"local": state, "partner": partner}, "zones": {ZONE: serials}, "clock": {"offset": offset}}  # fmt: skip
    found = list(page.problems(status))
    subjects = ("server here", "server of the partner", "alpha does not answer", "beta does not answer", "different versions", "The clock")
    return [any(subject in problem for problem in found) for subject in subjects]


STATES = ("hot-standby", "load-balancing", "partner-down", "waiting", None)
OFFSETS = (None, 0.0, 0.1, -0.1, 0.11, -3.0)
SERIALS = ((7, 7), (7, 6), (None, 7), (None, None), (0, None))
CASES = list(itertools.product(STATES, STATES, OFFSETS, SERIALS))


def opinions(page):
    """What both say in all cases."""
    both = []
    for state, partner, offset, (first, second) in CASES:
        case = state, partner, offset, {"alpha": first, "beta": second}
        both.append((told_by_status(*case), told_by_page(page, *case)))
    return both


def test_both_say_the_same(page):
    found = opinions(page)
    assert [case for case, (one, other) in zip(CASES, found, strict=True) if one != other] == []
    # Each of the six is told in some cases, and not in others.
    assert [len({one[number] for one, _other in found}) for number in range(6)] == [2] * 6


def test_a_rule_is_changed_in_one_place(page, monkeypatch):
    """Both go by the rules of this module, and by none of their own."""
    before = opinions(page)
    assert Path(page.health.__file__).resolve() == Path(health.__file__).resolve()
    for module in (health, page.health):
        monkeypatch.setattr(module, "CLOCK", 5.0)
        monkeypatch.setattr(module, "PAIR_WORKS", ("waiting",))
    after = opinions(page)
    assert all(one == other for one, other in after)
    changed = [number for number in range(6) if [one[number] for one, _ in before] != [one[number] for one, _ in after]]
    assert changed == [0, 1, 5]


NONSENSE = "0A4D000B,10.77.0.11,11,1,nan,0,0,0,0,0,0,0,64.0,Normal"


@pytest.mark.parametrize("text", ["", "nan", NONSENSE, "0A4D000B,x,3,1,-0.02,0,0,0,0,0,0,0,64,Normal"])
def test_both_read_a_clock_alike(page, text):
    assert readings.clock_offset(text) == (page.health.clock(text) or (None,))[0]


def test_a_clock_that_says_nonsense_is_not_well(page):
    assert told_by_status("hot-standby", "hot-standby", readings.clock_offset(NONSENSE), {"alpha": 1})[5]
