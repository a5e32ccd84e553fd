"""When a DHCP server of a pair that has ended its work begins anew, and when it does not."""

from __future__ import annotations

import json
import types

import pytest

from beowulf.process import ROOT

PROGRAM = ROOT / "roles/dhcp/files/usr/local/lib/beowulf/dhcp-pair.py"
NOON = "Sat, 28 Nov 2026 12:00:00 GMT"
AT_NOON = 1795867200
PATIENCE = 300


@pytest.fixture(scope="module")
def pair(load):
    return load(PROGRAM)


RESERVED = [
    {"hw-address": "b8:27:eb:00:00:21", "ip-address": "10.77.0.21"},
    {"hw-address": "b8:27:eb:00:00:22", "ip-address": "10.77.0.22"},
]


def lease(address, state=0, left=60, mac="b8:27:eb:00:00:21"):
    return {"ip-address": address, "state": state, "cltt": AT_NOON - 100, "valid-lft": 100 + left, "hw-address": mac}


@pytest.fixture
def server(pair, tmp_path, monkeypatch):
    """A Kea that answers, and its partner: what the watch writes, and whether Kea was told to begin anew, one look after the other."""
    clock = [1000.0]
    monkeypatch.setattr(pair, "time", types.SimpleNamespace(monotonic=lambda: clock[0], time=lambda: AT_NOON, sleep=lambda _: None))

    def look(role="standby", state="terminated", partner=("terminated", AT_NOON), leases=(), after=30.0, kea=None):
        clock[0] += after
        told = []

        def answers(path, command, **arguments):
            if command == "lease4-del":
                look.forgotten.append(arguments["ip-address"])
                return {}
            if command == "shutdown":
                told.append(arguments["exit-value"])
                return {}
            return {
                "status-get": {"high-availability": [{"ha-servers": {"local": {"role": role}}}]},
                "ha-heartbeat": {"state": state, "date-time": NOON},
                "lease4-get-all": {"leases": list(leases)} if leases else {},
                "config-get": {"Dhcp4": {"subnet4": [{"reservations": RESERVED}]}},
            }[command]

        monkeypatch.setattr(pair, "kea", kea or answers)
        monkeypatch.setattr(pair, "partner", lambda url, folder: partner)
        file = tmp_path / "state.json"
        pair.main(str(file), "socket", "url", "", str(PATIENCE), "10.77.0.200", "10.77.0.239")
        return json.loads(file.read_text()), told == [pair.ANEW]

    look.forgotten = []
    return look


@pytest.mark.parametrize("state", ["hot-standby", "partner-down", "waiting", "syncing", "ready"])
@pytest.mark.parametrize("role", ["primary", "standby"])
def test_a_pair_that_works_is_left_alone(server, role, state):
    assert server(role, state)[1] is False


@pytest.mark.parametrize("role", ["primary", "standby"])
@pytest.mark.parametrize("clock", [-120, -31, 31, 120])
def test_nobody_begins_anew_while_the_clocks_disagree(server, role, clock):
    for state in ("terminated", "waiting"):
        told, anew = server(role, partner=(state, AT_NOON + clock))
        assert (anew, told["waits"][:20], told["partner"]["clock"]) == (False, "the clocks to agree:", clock)


def test_the_standby_begins_first_and_the_primary_follows(server):
    """There is no look at which both would: else nobody served, or both without knowing the other's leases."""
    assert server("primary")[1] is False
    assert server("standby")[1] is True
    assert server("primary", partner=("waiting", AT_NOON - 20))[1] is True


def test_a_clock_that_jumps_back_and_forth_makes_no_more_than_one_start_in_five_minutes(server):
    starts = [server("standby")[1] for _ in range(41)]  # every 30 s, 20 minutes
    assert starts.count(True) == 5
    assert "between two starts" in server("standby")[0]["waits"]


def test_one_that_waits_for_this_one_is_never_kept_waiting(server):
    assert server("standby")[1] is True
    assert server("standby", partner=("waiting", AT_NOON))[1] is True


def test_a_standby_alone_waits_for_the_leases_that_it_does_not_know(server):
    """One that knows nothing of them could give the same address once more."""
    starts = [server("standby", partner=None)[1] for _ in range(12)]
    assert starts == [False] * 10 + [True, False]
    assert server("standby", "waiting", partner=None)[0]["silent"] is not None
    assert server("standby", "hot-standby")[0]["silent"] is None


def test_a_primary_alone_goes_on_serving(server):
    assert not any(server("primary", partner=None)[1] for _ in range(30))


def test_the_pool_is_counted_without_what_has_ended_and_what_is_reserved(server):
    leases = [
        lease("10.77.0.21"), lease("10.77.0.199"), lease("10.77.0.240"),
        lease("10.77.0.200"), lease("10.77.0.239"), lease("10.77.0.201", left=-1),
        lease("10.77.0.202", state=1), lease("10.77.0.203", state=1, left=-1), lease("10.77.0.204", state=2),
    ]  # fmt: skip
    assert server(state="hot-standby", leases=leases)[0]["pool"] == {"total": 40, "leased": 2, "declined": 1}
    assert server(state="hot-standby")[0]["pool"] == {"total": 40, "leased": 0, "declined": 0}


@pytest.mark.parametrize(
    ("leases", "present", "forgotten"),
    [
        ([lease("10.77.0.22", mac="b8:27:eb:00:00:99")], False, ["10.77.0.22"]),
        ([lease("10.77.0.22", mac="b8:27:eb:00:00:99")], True, []),
        ([lease("10.77.0.22", mac="b8:27:eb:00:00:22"), lease("10.77.0.200", mac="b8:27:eb:00:00:99")], False, []),
        ([lease("10.77.0.22", mac="b8:27:eb:00:00:99", left=-1), lease("10.77.0.21", mac="", state=1)], False, []),
    ],
    ids=["a board that is gone", "one that is there", "their own, and the pool's", "ended, declined"],
)
def test_the_address_of_a_node_is_freed_when_the_board_that_had_it_is_gone(server, pair, monkeypatch, leases, present, forgotten):
    monkeypatch.setattr(pair, "still_there", lambda machines: machines if present else [])
    server(state="hot-standby", leases=leases)
    assert server.forgotten == forgotten


@pytest.mark.parametrize("error", [OSError("refused"), ValueError("no JSON"), KeyError("result")])
def test_a_kea_that_does_not_answer_is_told_with_the_time(server, error):
    def silent(path, command, **arguments):
        raise error

    told, anew = server(kea=silent)
    assert (anew, told["looked"]) == (False, AT_NOON)
    assert told["problem"].startswith("Kea does not answer: ")


@pytest.mark.parametrize(
    "answer",
    [{}, [], None, {"state": "terminated"}, {"state": "\x1b[2J", "date-time": NOON}, {"state": 7, "date-time": NOON},
     {"state": "waiting", "date-time": ""}, {"state": "waiting", "date-time": None}, {"state": "waiting", "date-time": "noon"}],
)  # fmt: skip
def test_a_partner_is_believed_a_state_and_a_time_and_nothing_else(pair, answer):
    with pytest.raises(ValueError):  # noqa: PT011  # of the library or ours
        pair.told(answer)
    assert pair.told({"state": "waiting", "date-time": NOON}) == ("waiting", AT_NOON)
