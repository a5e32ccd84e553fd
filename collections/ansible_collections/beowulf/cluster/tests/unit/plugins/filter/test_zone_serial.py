from __future__ import annotations

import pytest

from ansible_collections.beowulf.cluster.plugins.filter.zone_serial import zone_serial


def zone(digest: str, serial: int) -> str:
    return f"; managed\n; content {digest} serial {serial}\n@ SOA ns1 hostmaster ( {serial} 300 60 2419200 60 )\n"


def test_a_new_zone_starts_with_the_time():
    assert zone_serial("", "a", now=1_800_000_000) == 1_800_000_000


def test_the_same_content_keeps_its_serial():
    assert zone_serial(zone("a", 17), "a", now=1_800_000_000) == 17


def test_other_content_takes_the_time():
    assert zone_serial(zone("a", 17), "b", now=1_800_000_000) == 1_800_000_000


def test_a_clock_that_is_behind_does_not_turn_the_serial_back():
    assert zone_serial(zone("a", 1_800_000_000), "b", now=5) == 1_800_000_001


def test_the_serial_never_becomes_zero_when_it_wraps():
    assert zone_serial(zone("a", 2**32 - 1), "b", now=5) == 1


@pytest.mark.parametrize("text", ["; content a", "; content a serial x", "x; content a serial 5"])
def test_a_damaged_line_counts_as_none(text):
    assert zone_serial(text, "a", now=9) == 9


def test_a_file_from_before_the_server_was_a_secondary_is_overtaken():
    assert zone_serial(zone("a", 17), "a", served=20, now=5) == 21
    assert zone_serial(zone("a", 17), "a", served=20, now=1_800_000_000) == 1_800_000_000


@pytest.mark.parametrize("served", [0, 16, 17])
def test_a_server_that_is_behind_its_file_or_silent_changes_nothing(served):
    assert zone_serial(zone("a", 17), "a", served=served, now=1_800_000_000) == 17


def test_a_serial_past_the_middle_of_its_range_is_kept_while_the_server_is_silent():
    assert zone_serial(zone("a", 3_000_000_000), "a", served=0, now=5) == 3_000_000_000
