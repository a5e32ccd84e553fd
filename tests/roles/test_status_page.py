from __future__ import annotations

import copy
import json
import re
import socket
import struct
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "roles/httpd/files/usr/local/lib/beowulf/status-page.py"
SKELETON = PROGRAM.with_suffix(".html").read_text(encoding="utf-8")
ZONE = "lab.internal"
SETTINGS = """
cluster = "lab"
server = "alpha"
vip = "127.0.0.1"
zones = ["lab.internal"]
kea_socket = "/nonexistent"
pages = "{folder}"

[servers]
alpha = "127.0.0.1"
"""


@pytest.fixture(scope="module")
def page(load):
    return load(PROGRAM)


@pytest.fixture
def healthy():
    return {
        "cluster": "lab",
        "server": "alpha",
        "made": "2025-11-21T00:12:13Z",
        "vip": {"address": "10.77.0.5", "held": True, "answered_by": "alpha"},
        "dhcp": {"local": "hot-standby", "partner": "hot-standby", "leases": 5},
        "zones": {ZONE: {"alpha": 2025112101, "beta": 2025112101}},
        "clock": {"offset": -0.0000123, "stratum": 3},
        "uptime": 4379.0,
        "load": [0.5, 0.25, 0.125],
        "problems": [],
    }


def soa(page, *, number=7, flags=0x8400, count=1, kind=6, serial=2025112101, zone=ZONE):
    """An answer as BIND gives it: names point back to the question."""
    data = b"\3ns1\xc0\x0c" + b"\nhostmaster\xc0\x0c" + struct.pack("!5I", serial, 300, 60, 2419200, 60)
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 300, len(data)) + data
    return struct.pack("!6H", number, flags, 1, count, 0, 0) + page.soa_query(zone, number)[12:] + record


def test_asks_for_a_soa_record(page):
    assert page.soa_query("lab.internal.", 258) == b"\1\2\0\0\0\1\0\0\0\0\0\0\3lab\x08internal\0\0\6\0\1"


def test_reads_a_serial(page):
    assert page.soa_serial(soa(page), ZONE) == 2025112101
    assert page.soa_serial(soa(page, serial=4294967295), ZONE) == 4294967295


@pytest.mark.parametrize(
    "wrong",
    [
        {"flags": 0x8000},  # from a cache
        {"flags": 0x8405},  # refused
        {"flags": 0x8600},  # truncated
        {"flags": 0x0400},  # a question
        {"count": 0},
        {"kind": 5},
        {"zone": "other.internal"},
    ],
)
def test_refuses_another_answer(page, wrong):
    with pytest.raises(ValueError, match="no "):
        page.soa_serial(soa(page, **wrong), ZONE)


def test_an_answer_cut_anywhere_is_no_answer(page):
    whole = soa(page)
    # The last four numbers of the record are of no interest.
    for length in range(len(whole) - 16):
        assert page.known(lambda cut=whole[:length]: page.soa_serial(cut, ZONE)) is None


def test_asks_a_server_for_all_zones_at_once(page, monkeypatch):
    """Answers come in any order, between others that nobody asked for; a zone without one is unknown."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        connect, port = socket.socket.connect, server.getsockname()[1]

        class Client(socket.socket):
            def connect(self, address):
                connect(self, (address[0], port))

            def recv(self, size):
                if not sent:
                    for _ in range(3):
                        question, client = server.recvfrom(512)
                        sent.append((question, client))
                    for question, client in reversed(sent):
                        zone = chr(question[13])
                        if zone != "b":
                            server.sendto(b"noise", client)
                            server.sendto(soa(page, number=int.from_bytes(question[:2]), zone=zone, serial=ord(zone)), client)
                return super().recv(size)

        sent = []
        monkeypatch.setattr(page.socket, "socket", Client)
        monkeypatch.setattr(page, "LIMIT", 0.3)
        assert page.serials("127.0.0.1", ["a", "b", "c"]) == {"a": 97, "b": None, "c": 99}


def test_reads_addresses(page):
    text = json.dumps(
        [{"ifname": "lo", "addr_info": [{"local": "127.0.0.1"}]}, {"addr_info": [{"local": "10.77.0.5"}]}, {"ifname": "eth1"}]
    )
    assert page.addresses(text) == {"127.0.0.1", "10.77.0.5"}


def test_counts_the_leases_of_all_subnets(page):
    arguments = {
        "subnet[1].assigned-addresses": [[3, "2025-11-21 00:00:02"], [2, "2025-11-21 00:00:01"]],
        "subnet[2].assigned-addresses": [[4, "2025-11-21 00:00:01"]],
        "subnet[1].pool[0].assigned-addresses": [[3, "2025-11-21 00:00:01"]],
        "subnet[1].cumulative-assigned-addresses": [[9, "2025-11-21 00:00:01"]],
    }
    assert page.leases(arguments) == 7
    assert page.known(lambda: page.leases({})) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, None), (59, "0 min"), (3599, "59 min"), (4379, "1 h 12 min"), (86400 * 3 + 7200, "3 d 2 h")]
)
def test_says_a_time_span(page, seconds, words):
    assert page.duration(seconds) == words


def test_finds_nothing_wrong_with_a_healthy_pair(page, healthy):
    assert list(page.problems(healthy)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"vip": {"answered_by": None}}, "No server answers on 10.77.0.5."),
        ({"vip": {"answered_by": "beta"}}, "alpha holds 10.77.0.5, and beta answers there."),
        ({"vip": {"held": False}}, "alpha does not hold 10.77.0.5, and alpha answers there."),
        ({"dhcp": {"local": "partner-down"}}, "The DHCP server here is in the state partner-down."),
        ({"dhcp": {"partner": None}}, "The DHCP server of the partner is in an unknown state."),
        ({"zones": {ZONE: {"alpha": 1, "beta": None}}}, "beta does not answer for the zone lab.internal."),
        ({"zones": {ZONE: {"alpha": 1, "beta": 2}}}, "The servers have different versions of the zone lab.internal."),
        ({"clock": {"offset": None}}, "The clock is not synchronised."),
        ({"clock": {"offset": -0.2}}, "The clock is -0.200 s off."),
    ],
)
def test_says_what_is_wrong(page, healthy, change, problem):
    for key, values in change.items():
        healthy[key] = {**healthy[key], **values}
    assert list(page.problems(healthy)) == [problem]


def test_shows_what_is_known(page, healthy):
    text = page.render(healthy, SKELETON)
    for shown in (
        "All is well.",
        "-0.012 ms",
        "1 h 12 min",
        "0.50, 0.25, 0.12",
        "2025112101",
        "10.77.0.5",
        'datetime="2025-11-21T00:12:13Z"',
    ):
        assert shown in text
    assert '<span class="unknown">' not in text
    assert not re.search(r"\$\w", text)


def test_shows_what_is_not_known(page, healthy):
    status = copy.deepcopy(healthy) | {"uptime": None, "load": None, "problems": ["one", "two"]}
    status["vip"] |= {"held": None, "answered_by": None}
    status["dhcp"] = dict.fromkeys(status["dhcp"])
    status["clock"] = dict.fromkeys(status["clock"])
    status["zones"] = {ZONE: {"alpha": 1, "beta": None}}
    text = page.render(status, SKELETON)
    assert text.count('<span class="unknown">unknown</span>') == 10
    assert "<li>one</li><li>two</li>" in text
    assert '<tbody class="differ">' in text


def test_escapes_every_value(page, healthy):
    hostile = "<script>alert('$made')</script>"
    status = healthy | {
        "cluster": hostile,
        "server": hostile,
        "made": hostile,
        "problems": [hostile],
        "zones": {hostile: {hostile: hostile}},
    }
    status["vip"] = {"address": hostile, "held": True, "answered_by": hostile}
    status["dhcp"] = dict.fromkeys(healthy["dhcp"], hostile)
    status["clock"]["stratum"] = hostile
    text = page.render(status, SKELETON)
    assert text.count("<script>") == 1
    assert "alert('" not in text


def test_allows_its_own_style_and_script_alone(page, healthy):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page.render(healthy, SKELETON))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"\$", "".join(re.findall(r"<(?:style|script)>.*?</", SKELETON, re.DOTALL))), "a value would change the digest"
    assert not re.search(r'\b(src|href)="(?!status\.json")| style="| on\w+="', SKELETON)


def test_writes_both_files_whatever_fails(page, tmp_path, monkeypatch):
    """Nothing answers here: no DHCP, and nobody that this program may ask."""
    monkeypatch.setattr(page, "run", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(page.kea_control, "converse", lambda *_: (_ for _ in ()).throw(TimeoutError()))
    monkeypatch.setattr(page, "serials", lambda *_: (_ for _ in ()).throw(OSError()))
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS.format(folder=tmp_path))
    page.main([str(settings), "--check"])
    assert list(tmp_path.iterdir()) == [settings]
    page.main([str(settings)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "settings.toml", "status.json"]
    status = json.loads((tmp_path / "status.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", status["made"])
    assert status["vip"] == {"address": "127.0.0.1", "held": None, "answered_by": None}
    assert status["dhcp"] == {"local": None, "partner": None, "leases": None}
    assert status["zones"] == {ZONE: {"alpha": None}}
    assert "No server answers on 127.0.0.1." in (tmp_path / "index.html").read_text()
