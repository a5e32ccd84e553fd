from __future__ import annotations

import pytest

from ansible_collections.beowulf.cluster.plugins.module_utils import health

TRACKING = "0A4D000B,10.77.0.11,11,1763640000.1,-0.000123,0.0,0.0,0,0,0,0,0,64.0,Normal\n"


def test_a_clock_that_follows_another_or_itself():
    assert health.clock(TRACKING) == (-0.000123, 11)
    assert health.clock(TRACKING.replace("0A4D000B,10.77.0.11", "7F7F0101,")) == (-0.000123, 11)


@pytest.mark.parametrize(
    "text",
    [
     "", "506 Cannot talk to daemon", "00000000,,0,0.0,0.0,0.0,0.0,0,0,0,1.0,1.0,0.0,Not synchronised",
     TRACKING.replace("-0.000123", "nan"),
     TRACKING.replace("-0.000123", "inf"), TRACKING.replace("-0.000123", "x"), TRACKING.replace(",11,", ",,"),
     TRACKING.replace("Normal", "Not synchronised"), TRACKING.replace("0A4D000B,10.77.0.11", "00000000,")],
)  # fmt: skip
def test_a_clock_that_does_not(text):
    assert health.clock(text) is None


@pytest.mark.parametrize(
    ("offset", "fault"),
    [(None, "is not synchronised"), (0.0, ""), (0.1, ""), (-0.1, ""), (0.1001, "is +0.100 s off"), (-7.5, "is -7.500 s off")],
)
def test_what_is_wrong_with_a_clock(offset, fault):
    assert health.clock_fault(offset) == fault


def test_a_pair_works_when_both_are_there():
    states = ("hot-standby", "load-balancing", "partner-down", "waiting", "terminated", "", None)
    assert [state for state in states if health.pair_works(state)] == ["hot-standby", "load-balancing"]


@pytest.mark.parametrize(
    ("serials", "faults"),
    [
        ({"alpha": 7, "beta": 7}, ([], False)),
        ({"alpha": 7, "beta": 6}, ([], True)),
        ({"alpha": None, "beta": 6}, (["alpha"], False)),
        ({"alpha": None, "beta": None}, (["alpha", "beta"], False)),
        ({"alpha": 0, "beta": 0}, ([], False)),
        ({}, ([], False)),
    ],
)
def test_what_is_wrong_with_a_zone(serials, faults):
    assert health.zone_faults(serials) == faults
