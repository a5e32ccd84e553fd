from __future__ import annotations

import copy
import io
import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from beowulf import status

TRACKING = "0A4D000B,10.77.0.11,11,1763640000.1,-0.000123,0.0,0.0,0,0,0,0,0,64.0,Normal"
ADDRESSES = "lo  UNKNOWN 127.0.0.1/8\neth0@if5  UP  10.77.0.11/24 10.77.0.5/32"


def answer(state):
    return json.dumps({"result": 0, "arguments": {"high-availability": [{"ha-servers": {"local": {"state": state}}}]}})


def node(kind, address, *more, clock=0.0001, dhcp=None):
    return {"type": kind, "address": address, "up": True, "addresses": [address, *more], "clock": clock, "uptime": 1.0, "dhcp": dhcp}


def kept(seconds):
    made = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"archive": "lab-x", "archives": ["lab-x"], "time": f"{made:%Y-%m-%dT%H:%M:%S.%f}Z"}


def shown(state):
    screen = io.StringIO()
    Console(file=screen, width=120).print(status.screen(status.judge(state)))
    return screen.getvalue()


@pytest.fixture
def healthy():
    return {
        "cluster": "lab",
        "vip": "10.77.0.5",
        "nodes": {
            "alpha": node("lanservices", "10.77.0.11", "10.77.0.5", dhcp="hot-standby"),
            "beta": node("lanservices", "10.77.0.12", dhcp="hot-standby"),
            "gamma": node("compute", "10.77.0.21"),
            "psi": node("deployer", "10.77.0.10") | {"backup": kept(3600)},
        },
        "serials": {"lab.internal": {"alpha": 7, "beta": 7}},
        "lanservices": ["alpha", "beta"],
        "last_run": None,
    }


def test_the_answers_of_a_node_are_taken_apart():
    text = subprocess.run(["sh", "-c", status.script({"a": "echo 1; echo 2", "b": "false", "c": "no-such-program"})],
                          capture_output=True, text=True, check=False).stdout  # fmt: skip
    assert status.answers(text) == {"a": "1\n2", "b": "", "c": ""}


def test_addresses_clock_and_dhcp_are_read():
    assert status.addresses(ADDRESSES) == {"127.0.0.1", "10.77.0.11", "10.77.0.5"}
    assert status.clock_offset(TRACKING) == pytest.approx(-0.000123)
    assert status.clock_offset(TRACKING.replace("0A4D000B,10.77.0.11", "7F7F0101,")) == pytest.approx(-0.000123)
    assert status.clock_offset(TRACKING.replace("0A4D000B,10.77.0.11", "00000000,")) is None
    assert status.clock_offset(TRACKING.replace("Normal", "Not synchronised")) is None
    assert status.clock_offset("") is None
    assert status.ha_state(answer("partner-down")) == "partner-down"
    assert status.ha_state("") is None
    assert status.ha_state('{"result": 1}') is None


def test_all_is_well(healthy):
    state = status.judge(healthy)
    assert (state["healthy"], state["problems"], state["vip_holders"]) == (True, [], ["alpha"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s["nodes"].update(gamma={"type": "compute", "address": "x", "up": False, "reason": "No route"}),
            "gamma is down (No route)",
        ),
        (lambda s: s["nodes"]["alpha"]["addresses"].remove("10.77.0.5"), "the VIP 10.77.0.5 is held by nobody"),
        (lambda s: s["nodes"]["beta"]["addresses"].append("10.77.0.5"), "the VIP 10.77.0.5 is held by alpha and beta"),
        (lambda s: s["nodes"]["beta"].update(dhcp="partner-down"), "DHCP on beta is partner-down"),
        (lambda s: s["nodes"]["beta"].update(dhcp=None), "DHCP on beta is down"),
        (lambda s: s["serials"]["lab.internal"].update(beta=6), "the servers have different versions of lab.internal"),
        (lambda s: s["serials"]["lab.internal"].update(beta=None), "DNS on beta does not serve lab.internal"),
        (lambda s: s["nodes"]["psi"].update(backup=kept(3 * 86400)), "the last backup of psi was made 3 days ago"),
        (lambda s: s["nodes"]["gamma"].update(clock=None), "the clock of gamma is not synchronised"),
        (lambda s: s["nodes"]["gamma"].update(clock=-2.5), "the clock of gamma is -2.500 s off"),
    ],
)
def test_each_fault_is_named_and_alone(healthy, change, words):
    broken = copy.deepcopy(healthy)
    change(broken)
    state = status.judge(broken)
    assert state["problems"] == [words]
    assert not state["healthy"]
    screen = io.StringIO()
    Console(file=screen, width=120).print(status.screen(state))
    assert words in screen.getvalue()


def test_the_age_of_the_last_backup_is_told(healthy):
    assert "last backup: lab-x, 60 min ago" in shown(healthy)
    assert status.judge(healthy)["last_backup"]["age"] == pytest.approx(3600, abs=5)


def test_no_backup_yet_is_a_note_and_no_fault(healthy):
    healthy["nodes"]["psi"]["backup"] = None
    assert status.judge(healthy)["healthy"]
    assert "last backup: never: ./bootstrap backup.create" in shown(healthy)


def test_of_a_deployer_that_is_down_it_is_not_said_that_it_has_no_backup(healthy):
    healthy["nodes"]["psi"] = {"type": "deployer", "address": "10.77.0.10", "up": False, "reason": "No route"}
    assert "last backup: unknown" in shown(healthy)
