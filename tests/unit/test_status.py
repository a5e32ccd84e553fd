from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from beowulf import questions, ssh, status
from beowulf.health import judgement, queries, readings
from beowulf.process import output

TRACKING = "0A4D000B,10.77.0.11,11,1763640000.1,-0.000123,0.0,0.0,0,0,0,0,0,64.0,Normal"
ADDRESSES = "lo  UNKNOWN 127.0.0.1/8\neth0@if5  UP  10.77.0.11/24 10.77.0.5/32"


def answer(state):
    servers = {"local": {"state": state}, "remote": {"last-state": "ready"}}
    return json.dumps({"result": 0, "arguments": {"high-availability": [{"ha-servers": servers}]}})


def node(kind, address, *more, clock=0.0001, dhcp=None):
    state = {"type": kind, "address": address, "up": True, "addresses": [address, *more], "clock": clock, "uptime": 1.0, "dhcp": dhcp}
    looked = {"looked": time.time() - 30, "problem": ""}
    pair = looked | {"waits": "", "pool": {"total": 40, "leased": 5, "declined": 1}}
    return state | ({"backup": kept(3600), "watch": looked, "pair": pair} if kind == "lanservices" else {})


def kept(seconds):
    made = datetime.now(UTC) - timedelta(seconds=seconds)
    return {"archive": "lab-x", "archives": ["lab-x"], "before": 1, "time": f"{made:%Y-%m-%dT%H:%M:%S.%f}Z"}


def ended(task, hours):
    now = time.time()
    return {task: {"since": now - 30 * 86400, "good": None if hours is None else now - hours * 3600}}


def shown(state):
    screen = io.StringIO()
    Console(file=screen, width=120).print(status.screen(judgement.judge(state)))
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
        "dynamic": {"dyn.lab.internal": {"alpha": 3, "beta": 3}, "200.0.77.10.in-addr.arpa": {"alpha": 1, "beta": 1}},
        "lanservices": ["alpha", "beta"],
        "last_run": None,
    }


def test_the_answers_of_a_node_are_taken_apart():
    text = subprocess.run(["sh", "-c", questions.script({"a": "echo 1; echo 2", "b": "false", "c": "no-such-program", "d": "printf x"})],
                          capture_output=True, text=True, check=False).stdout  # fmt: skip
    assert questions.answers(text) == ({"a": "1\n2", "b": "", "c": "", "d": "x"}, ["b", "c"])


def test_addresses_clock_and_dhcp_are_read():
    assert readings.addresses(ADDRESSES) == {"127.0.0.1", "10.77.0.11", "10.77.0.5"}
    assert readings.clock_offset(TRACKING) == pytest.approx(-0.000123)
    assert readings.clock_offset(TRACKING.replace("0A4D000B,10.77.0.11", "7F7F0101,")) == pytest.approx(-0.000123)
    assert readings.clock_offset(TRACKING.replace("0A4D000B,10.77.0.11", "00000000,")) is None
    assert readings.clock_offset(TRACKING.replace("Normal", "Not synchronised")) is None
    assert readings.clock_offset("") is None
    assert readings.ha_state(answer("partner-down")) == "partner-down"
    assert readings.ha_state("") is None
    assert readings.ha_state('{"result": 1}') is None


def test_all_is_well(healthy):
    state = judgement.judge(healthy)
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
        (lambda s: s["nodes"]["beta"].update(backup=kept(3 * 86400)), "the last backup of which beta holds a copy was made 3 days ago"),
        (lambda s: s["nodes"]["beta"].update(backup=None), "beta holds no copy of the backups: ./bootstrap backup.create"),
        (
            lambda s: s["dynamic"]["dyn.lab.internal"].update(alpha=None),
            "DNS on alpha does not serve dyn.lab.internal: ./bootstrap deploy --tags dns",
        ),
        (
            lambda s: [servers.update(beta=None) for servers in s["dynamic"].values()],
            "DNS on beta does not serve 2 of 2 dynamic zones, dyn.lab.internal among them: ./bootstrap deploy --tags dns",
        ),
        (
            lambda s: s["dynamic"]["dyn.lab.internal"].update(alpha=2),
            "the servers have different versions of dyn.lab.internal: ./bootstrap deploy --tags dns",
        ),
        (
            lambda s: s["nodes"]["alpha"]["pair"].update(waits="the standby to begin anew"),
            "DHCP on alpha has ended its work in the pair, and waits for the standby to begin anew",
        ),
        (
            lambda s: s["nodes"]["alpha"]["pair"]["pool"].update(leased=20, declined=17),
            "the pool has 3 of 40 addresses left, 17 of them declined by who was to have them: who takes them? ./bootstrap registry.fill",
        ),
        (
            lambda s: s["nodes"]["beta"]["watch"].update(problem="no such device"),
            "the watch for foreign DHCP servers on beta could not look: no such device",
        ),
        (
            lambda s: s["nodes"]["beta"]["watch"].update(looked=time.time() - 3600),
            "the watch for foreign DHCP servers on beta looked 60 min ago for the last time",
        ),
        (
            lambda s: s["nodes"]["beta"]["pair"].update(looked=time.time() - 3600),
            "the watch over the pair of DHCP servers on beta looked 60 min ago for the last time",
        ),
        (
            lambda s: s["nodes"]["beta"].update(foreign_dhcp=[{"server": "10.77.0.11", "mac": "02:00:00:00:00:99", "offers": "10.9.9.9"}]),
            "a foreign DHCP server 10.77.0.11 (02:00:00:00:00:99) offers addresses on the LAN",
        ),
        (
            lambda s: s["nodes"]["gamma"].update(renewed=time.time() - 20 * 3600),
            "the last good renewal of the certificates of gamma was 20 h ago: ./bootstrap ca.renew",
        ),
        (
            lambda s: s["nodes"]["alpha"].update(refused="2026-01-01 no room"),
            "alpha refused the last copy of the backups: 2026-01-01 no room",
        ),
        (lambda s: s["nodes"]["psi"]["backup"].update(before=9), "the backups on psi have 1 archive, where there were 9"),
        (
            lambda s: s["nodes"]["gamma"].update(failed_units=["dhcp-watch.service"]),
            "dhcp-watch.service failed on gamma: journalctl -u dhcp-watch.service",
        ),
        (lambda s: s["nodes"]["gamma"].update(disks={"/": 85, "/var": 86}), "/var of gamma is 86 % full"),
        (
            lambda s: s["nodes"]["gamma"].update(name="raspberrypi"),
            "gamma calls itself raspberrypi: ./bootstrap deploy --limit gamma --tags base",
        ),
        (lambda s: s["nodes"]["gamma"].update(skew=-86400.0), "the clock of gamma differs from this machine's by -86400 s"),
        (lambda s: s["nodes"]["gamma"].update(unanswered=["disks", "units"]), "gamma does not say how it is with its disks, failed units"),
        (
            lambda s: s["nodes"]["psi"].update(tasks=ended("certificates", 10)),
            "the task certificates of psi ended well 10 h ago: journalctl -u cluster-certificates there",
        ),
        (
            lambda s: s["nodes"]["psi"].update(tasks=ended("backup", None)),
            "the task backup of psi has never ended well: journalctl -u cluster-backup there",
        ),
        (lambda s: s["nodes"]["gamma"].update(clock=None), "the clock of gamma is not synchronised"),
        (lambda s: s["nodes"]["gamma"].update(clock=-2.5), "the clock of gamma is -2.500 s off"),
    ],
)
def test_each_fault_is_named_and_alone(healthy, change, words):
    broken = copy.deepcopy(healthy)
    change(broken)
    state = judgement.judge(broken)
    assert state["problems"] == [words]
    assert not state["healthy"]
    screen = io.StringIO()
    Console(file=screen, width=120).print(status.screen(state))
    assert words in " ".join(screen.getvalue().split())


@pytest.fixture
def members(healthy):
    """The same with k3s: gamma serves, delta is an agent."""
    known = {name: {"version": "v1.34.3+k3s1", "ready": True} for name in ("gamma", "delta")}
    healthy["nodes"]["gamma"]["k3s"] = known
    healthy["nodes"]["delta"] = node("compute", "10.77.0.22")
    return healthy | {"k3s_members": {"gamma": "server", "delta": "agent"}}


def test_the_nodes_of_k3s_are_read():
    text = "gamma v1.34.3+k3s1 True\ndelta v1.34.2+k3s1 Unknown\nnew v1.34.3+k3s1 \n"
    assert readings.k3s_nodes(text) == {
        "gamma": {"version": "v1.34.3+k3s1", "ready": True},
        "delta": {"version": "v1.34.2+k3s1", "ready": False},
        "new": {"version": "v1.34.3+k3s1", "ready": False},
    }
    assert readings.k3s_nodes("") == {}
    assert readings.k3s_nodes("down") is None


def test_the_nodes_of_k3s_are_shown_when_there_are_any(members, healthy):
    lines = [line for line in shown(members).splitlines() if "v1.34.3+k3s1" in line]
    assert ["gamma" in lines[0], "server" in lines[0], "delta" in lines[1], "agent" in lines[1]] == [True] * 4
    assert judgement.judge(members)["healthy"]
    members["nodes"]["gamma"]["k3s"] = {}
    assert "k3s" not in shown(members)
    assert judgement.judge(members)["healthy"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["nodes"]["gamma"].update(k3s=None), "k3s on gamma does not answer"),
        (lambda s: s["nodes"]["gamma"]["k3s"]["delta"].update(ready=False), "delta is not ready in k3s"),
        (lambda s: s["nodes"]["gamma"]["k3s"].pop("delta"), "delta is not in k3s"),
        (lambda s: s["nodes"]["gamma"]["k3s"]["delta"].update(version="v1.33.7+k3s1"), "different versions: v1.33.7+k3s1, v1.34.3+k3s1"),
    ],
)
def test_each_fault_of_k3s_is_named_and_alone(members, change, words):
    change(members)
    (problem,) = judgement.judge(members)["problems"]
    assert problem.endswith(words)
    assert words in shown(members)


def test_the_age_of_the_last_backup_is_told(healthy):
    assert "last backup: lab-x, 60 min ago" in shown(healthy)
    assert judgement.judge(healthy)["last_backup"]["age"] == pytest.approx(3600, abs=5)


def test_no_backup_yet_is_a_note_and_no_fault(healthy):
    healthy["nodes"]["psi"]["backup"] = None
    assert judgement.judge(healthy)["healthy"]
    assert "last backup: never: ./bootstrap backup.create" in shown(healthy)


def test_of_a_deployer_that_is_down_it_is_not_said_that_it_has_no_backup(healthy):
    healthy["nodes"]["psi"] = {"type": "deployer", "address": "10.77.0.10", "up": False, "reason": "No route"}
    assert "last backup: unknown" in shown(healthy)


DAY = 86400


@pytest.fixture
def trusting(healthy):
    """The same with certificates, half of their life old at most, and one list of what is revoked."""
    now = time.time()

    def lasting(path, days):
        return {"path": path, "first": now - days / 2 * DAY + 60, "last": now + days / 2 * DAY + 60}

    for name, one in healthy["nodes"].items():
        one["trust"] = {"certificates": [lasting(HOST, 60)], "revoked": {queries.KRL: "a1"}}
        if name in ("alpha", "beta"):
            one["trust"]["certificates"].append(lasting(KEA, 90))
    authority = healthy["nodes"]["psi"]["trust"]
    authority["revoked"][queries.AUTHORITY_KRL] = "a1"
    authority["certificates"] += [lasting(INTERMEDIATE, 730), lasting(ROOT, 3650)]
    return healthy


HOST, _MPI = queries.SSH_CERTIFICATES
KEA, _ARA, INTERMEDIATE, ROOT = queries.TLS_CERTIFICATES


def ending(state, name, path, days):
    [one] = [one for one in state["nodes"][name]["trust"]["certificates"] if one["path"] == path]
    one["last"] = time.time() + days * DAY + 60


def test_certificates_that_are_renewed_in_time_are_no_news(trusting):
    assert judgement.judge(trusting)["problems"] == []
    ending(trusting, "gamma", HOST, 29)
    ending(trusting, "psi", INTERMEDIATE, 364)
    assert judgement.judge(trusting)["problems"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: ending(s, "gamma", HOST, 9), "the SSH certificate of gamma ends in 9 days, and was not renewed: ./bootstrap ca.renew"),
        (lambda s: ending(s, "gamma", HOST, 0.5), "the SSH certificate of gamma ends in 12 h, and was not renewed: ./bootstrap ca.renew"),
        (lambda s: ending(s, "alpha", KEA, -3), "the TLS certificate of DHCP of alpha ended 3 days ago: ./bootstrap ca.renew"),
        (
            lambda s: ending(s, "psi", INTERMEDIATE, 200),
            "the TLS intermediate of psi ends in 200 days, and was not renewed: ./bootstrap ca.renew",
        ),
        (lambda s: ending(s, "psi", ROOT, 170), "the TLS root of psi ends in 170 days, and was not renewed: ./bootstrap ca.rotate"),
        (
            lambda s: s["nodes"]["gamma"]["trust"]["revoked"].update({queries.KRL: "b2"}),
            "gamma does not know what the authority has revoked: ./bootstrap ca.renew",
        ),
    ],
)
def test_what_ends_soon_and_who_does_not_know_what_is_revoked_is_told_alone(trusting, change, words):
    change(trusting)
    assert judgement.judge(trusting)["problems"] == [words]
    assert words in " ".join(shown(trusting).split())


def test_without_the_authority_the_nodes_are_compared_with_each_other(trusting):
    del trusting["nodes"]["psi"]["trust"]
    assert judgement.judge(trusting)["problems"] == []
    trusting["nodes"]["gamma"]["trust"]["revoked"][queries.KRL] = "b2"
    assert judgement.judge(trusting)["problems"] == ["the nodes do not agree on what is revoked, and the authority does not answer"]


def test_the_question_reads_real_certificates(tmp_path, monkeypatch):
    """Of OpenSSH and of TLS, of a chain the part that ends first; what is not there is not told."""
    (tmp_path / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for path in (HOST, KEA, queries.KRL):
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
    host = tmp_path / HOST[1:].removesuffix("-cert.pub")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host)], check=True)
    subprocess.run(["ssh-keygen", "-q", "-s", str(host), "-I", "gamma", "-h", "-V", "-5m:+48h", f"{host}.pub"], check=True)
    chain = b""
    for days in ("90", "20"):
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]
        chain += subprocess.run([*make, "-days", days, "-keyout", "/dev/null"], capture_output=True, check=True).stdout
    (tmp_path / KEA[1:]).write_bytes(chain)
    (tmp_path / queries.KRL[1:]).write_text("list")
    question = questions.script({"addresses": "true", "trust": queries.TRUST_ASK})
    for folder in ("/etc/", "/home/", "/var/"):
        question = question.replace(f" {folder}", f" {tmp_path}{folder}")
    text = subprocess.run(["sh", "-s"], input=question, capture_output=True, text=True, check=False).stdout
    found = readings.trust(questions.answers(text)[0]["trust"].replace(str(tmp_path), ""))
    ends = {one["path"]: round((one["last"] - time.time()) / 3600) for one in found["certificates"]}
    assert ends == {HOST: 48, KEA: 480}
    assert found["revoked"] == {queries.KRL: hashlib.sha256(b"list").hexdigest()}
    assert readings.trust("no answer\nfile\nValid: forever\nNot Before:x") == {"certificates": [], "revoked": {}}


class Nodes:
    """A cluster of a LAN server and a deployer, which a test answers for."""

    rack = type(
        "Rack", (), {"nodes": {name: type("Node", (), {"type": kind}) for name, kind in (("alpha", "lanservices"), ("psi", "deployer"))}}
    )
    ssh = staticmethod(lambda node: ["ssh", node])
    group = staticmethod(lambda _name: [])


def test_a_node_that_says_too_much_is_not_listened_to(monkeypatch):
    """Nor does it take this machine's memory, nor its time."""
    monkeypatch.setattr(ssh, "output", lambda _command, **options: output(["yes", "== addresses"], **options))
    began = time.monotonic()
    assert status.ask_node(Nodes, "alpha") == {"up": False, "reason": "yes: more than 1048576 bytes"}
    assert time.monotonic() - began < 5


GARBAGE = ["", "\x00\xff", "-", "nan nan nan", "[" * 5000, "{}", "{{ lookup('pipe', 'id') }}", "\n".join("x" * 9)]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_no_answer_of_a_node_is_a_traceback(monkeypatch, garbage):
    for name in ("alpha", "psi"):
        told = "".join(f"== {question}\n{garbage}\n=! 0\n" for question in queries.DHCP_QUESTIONS | queries.BACKUP_QUESTIONS)
        monkeypatch.setattr(ssh, "output", lambda command, told=told, **_options: subprocess.CompletedProcess(command, 0, told, ""))
        found = status.ask_node(Nodes, name)
        assert found["up"]
        state = {"cluster": "lab", "vip": "10.77.0.5", "lanservices": [], "serials": {}, "last_run": None,
                 "nodes": {name: {"type": "compute", "address": "10.77.0.11", **found}}}  # fmt: skip
        assert not judgement.judge(state)["healthy"]


def test_disks_are_read_by_their_bytes_and_by_their_files():
    text = "Mounted on Use% IUse%\n/           30%     4%\n/srv/with space 2% 99%\n/boot/firmware 12%     -\n"
    assert readings.disks(text) == {"/": 30, "/srv/with space": 99, "/boot/firmware": 12}
    assert readings.disks("") == {}
    real = subprocess.run(["sh", "-c", queries.DISKS_ASK], capture_output=True, text=True, check=False).stdout
    assert readings.disks(real)


def test_the_tasks_of_the_deployer_are_read(tmp_path):
    folder, stamps = tmp_path / "units", tmp_path / "stamps"
    folder.mkdir()
    stamps.mkdir()
    for name in ("backup", "certificates"):
        (folder / f"cluster-{name}.timer").touch()
    (stamps / "backup").touch()
    question = queries.TASKS_ASK.replace("/etc/systemd/system", str(folder)).replace(queries.TASKS, str(stamps))
    found = readings.tasks(subprocess.run(["sh", "-c", question], capture_output=True, text=True, check=True).stdout)
    assert set(found) == {"backup", "certificates"}
    assert found["backup"]["good"] == pytest.approx(time.time(), abs=60)
    assert found["certificates"]["good"] is None
    assert found["certificates"]["since"] == pytest.approx(time.time(), abs=60)
