from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from beowulf import build, drill, drill_lab, drill_report, figures, lock, playbook, probe
from beowulf.__main__ import named
from beowulf.cluster import Cluster
from beowulf.drill_lab import Watch
from beowulf.errors import Failure, Refusal
from beowulf.figures import Figure

PROBE = Path(drill.__file__).with_name("probe.py")


class Server:
    """A name server on loopback that can be told to be silent, or to answer wrongly."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.mode = "good"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                question, client = self.socket.recvfrom(512)
            except OSError:
                return
            number = struct.unpack("!H", question[:2])[0]
            flags = 0x8002 if self.mode == "servfail" else 0x8000
            answers = 0 if self.mode == "empty" else 1
            if self.mode != "silent":
                self.socket.sendto(struct.pack("!6H", number, flags, 1, answers, 0, 0) + question[12:], client)


@pytest.fixture
def server():
    started = Server()
    yield started
    started.socket.close()


@pytest.mark.parametrize("fault", ["silent", "servfail", "empty"])
def test_the_probe_sees_for_how_long_nobody_answered(server, fault):
    streams = [{"name": "dns", "kind": "dns", "server": "127.0.0.1", "port": server.port, "question": "a.lab.internal"}]
    command = [sys.executable, str(PROBE), json.dumps({"streams": streams})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        assert probe.stdout.readline() == "asking\n"
        time.sleep(0.5)
        server.mode = fault
        time.sleep(1)
        server.mode = "good"
        time.sleep(0.5)
        shown, _ = probe.communicate("", timeout=20)
    watch = Watch(json.loads(shown))
    assert 0.9 < watch.gap("dns") < 1.3
    assert 15 < watch.failed("dns") < 25


def test_a_gap_goes_from_answer_to_answer_and_to_the_ends_of_the_watch():
    watch = Watch(
        {
            "a": [[0, None, ""], [1, 0.1, ""], [2, None, ""], [4, 0.1, ""], [5, None, ""], [8, None, ""]],
            "none": [[1, None, ""], [9, None, ""]],
        }
    )
    assert watch.gaps("a") == [(0, 1), (1, 3), (4, 4)]
    assert Watch({"a": [*watch.samples["a"], [8.5, 0.1, ""]]}).gap("a") == 4.5
    assert watch.failed("a") == 4
    assert watch.longest("none") == math.inf
    assert Watch({"a": [[0, 0.5, ""], [1, 0.7, ""]]}).longest("a") == 0.7


def test_what_failed_is_said_with_its_time_and_reason():
    watch = Watch({"a": [[10, 0.1, ""], [11, None, "no answer"], [12, None, "refused"], [13, 0.1, ""]], "b": [[10, None, ""]]})
    assert watch.errors() == ["a: 2 failed, 1.0 s to 2.0 s after it began: no answer, refused"]


def test_who_did_not_come_back_was_away_for_ever():
    samples = [[0, 0.1, ""], [1, 0.1, ""], [2, None, ""], [3, None, ""]]
    assert Watch({"a": samples}).gap("a") == math.inf
    assert Watch({"a": [[0, None, ""], [1, None, ""]]}).gap("a") == math.inf
    assert Watch({"leases": []}).longest("leases") == math.inf
    never = figures.summarise([[Figure("gap", math.inf, 1, loose=True)]])["gap"]
    late = figures.summarise([[Figure("gap", 3, 1, loose=True)]])["gap"]
    assert [figures.verdict(never, quick=True), figures.verdict(late, quick=True), figures.verdict(late, quick=False)] == [
        "FAILED",
        "late",
        "FAILED",
    ]


class Dhcp:
    """A server whose answers are given: an address for each who asks, None for nobody there."""

    DISCOVER, OFFER, ACK, MESSAGE_TYPE = 1, 2, 5, 53

    def __init__(self, *addresses):
        self.addresses, self.released, self.number = list(addresses), [], 0

    def Conversation(self, interface, mac=None):  # named as the class that it stands for
        self.number += 1
        return Stranger(self, mac or b"%06d" % self.number)


class Stranger(contextlib.nullcontext):
    """One who asks it."""

    def __init__(self, server, mac):
        super().__init__(self)
        self.server, self.mac = server, mac

    def send(self, kind):
        self.answer = self.server.addresses.pop(0) if self.server.addresses else None

    def replies(self, kinds, wait):
        return [self.answer] if self.answer else []

    def request(self, offer, wait):
        return {"address": offer, "options": {Dhcp.MESSAGE_TYPE: bytes([Dhcp.ACK])}}

    def release(self, lease):
        self.server.released.append((self.mac, lease["address"]))


def asked(server, rounds):
    """The samples of a watch that ends while the last stranger asks."""

    class Until:
        def __init__(self):
            self.left = rounds

        def is_set(self):
            self.left -= 1
            return self.left < 0

        def wait(self, _seconds):
            return None

    return probe.leases(server, {"interface": "eth0"}, Until())


def test_who_asks_at_the_end_is_heard_out():
    assert [sample[1] is None for sample in asked(Dhcp("10.0.0.1", None, None, "10.0.0.2"), 2)] == [False, False]
    assert [sample[1] is None for sample in asked(Dhcp("10.0.0.1", *[None] * 9), 2)] == [False, True]


def test_an_address_that_two_have_is_marked_and_all_are_given_back():
    server = Dhcp("10.0.0.1", "10.0.0.2", "10.0.0.1")
    samples = asked(server, 3)
    assert [sample[2].endswith(probe.TWICE) for sample in samples] == [False, False, True]
    assert sorted(address for _mac, address in server.released) == ["10.0.0.1", "10.0.0.2"]
    many = Dhcp(*(f"10.0.0.{number}" for number in range(20)))
    asked(many, 20)
    assert len({mac for mac, _address in many.released}) == 20


def test_percentiles_are_values_that_were_measured():
    values = [float(number) for number in range(1, 21)]
    assert [figures.percentile(values, share) for share in (0.5, 0.95, 1)] == [10, 19, 20]
    assert figures.percentile([3.0], 0.95) == 3


def runs(*values, bound=1.0, loose=False):
    return [[Figure("gap", value, bound, loose=loose)] for value in values]


def test_the_worst_run_decides():
    summary = figures.summarise(runs(0.5, 0.4, 1.2))["gap"]
    assert (summary["max"], summary["p50"], summary["ok"]) == (1.2, 0.5, False)
    assert figures.summarise(runs(0.5, 1.0))["gap"]["ok"]


def test_a_bound_from_below_is_kept_from_below():
    enough = [[Figure("answers", value, 100, unit="", least=True)] for value in (100, 120)]
    assert figures.summarise(enough)["answers"]["ok"]
    assert not figures.summarise([*enough, [Figure("answers", 99, 100, unit="", least=True)]])["answers"]["ok"]


def result(loose, quick, **extra):
    measured = figures.summarise(runs(0.5, 1.2, loose=loose))
    one = {"name": "x", "title": "X <breaks>", "repeat": 2, "figures": measured, "failures": [], "ok": False} | extra
    return {"cluster": "lab", "started": 0, "seconds": 5, "quick": quick, "changed": 0, "drills": [one], "ok": False}


def test_the_report_shows_every_run_and_what_failed():
    page = drill_report.page(result(False, False))
    assert page.count('class="dot"') == 2
    assert 'class="bound"' in page
    assert "X &lt;breaks&gt;" in page
    assert drill_report.table(result(False, False))[1].endswith("FAILED")
    assert drill_report.table(result(True, True))[1].endswith("late")
    assert "| `x` | gap | 2 | 0.50 s | 1.20 s | 1.20 s | 1.00 s |" in drill_report.markdown(result(False, False))
    assert "no power" in drill_report.page(result(True, True, failures=["no power"]))


def test_what_never_came_is_null_for_machines():
    """JSON has no infinity (RFC 8259 section 6); strict readers would refuse the very runs that failed."""
    never = {"figures": {"gap": {"values": [math.inf, 0.5], "max": math.inf, "ok": False}}, "name": "x"}

    def strict(word):
        raise AssertionError(word)

    read = json.loads(drill_report.as_json(never), parse_constant=strict)
    assert read == {"figures": {"gap": {"values": [None, 0.5], "max": None, "ok": False}}, "name": "x"}


@pytest.mark.parametrize(("value", "end"), [(0.7, 1), (1.2, 2), (0, 1), (34, 50), (math.inf, 1)])
def test_a_plot_ends_at_a_round_number(value, end):
    assert drill_report.scale({"values": [value], "bound": None}) == pytest.approx(end)


class Broken(drill_lab.Lab):
    """A lab that is never healthy and says when it gets power."""

    def __init__(self):
        self.off, self.powered = set(), []

    def until_healthy(self, seconds=0):
        return 0.0

    def power_on(self, *nodes):
        self.powered += nodes
        self.off -= set(nodes)


def test_what_was_broken_gets_its_power_back_whatever_happens():
    def body(lab):
        lab.off.add("alpha")
        raise Failure("alpha does not burn")

    lab = Broken()
    assert drill.run_one(lab, drill.Drill("x", True, body)) == ([], "alpha does not burn")
    assert lab.powered == ["alpha"]


def test_drills_are_found_by_name_and_the_quick_ones_are_fewer():
    every, quick = drill.choose([], False), drill.choose([], True)
    assert {one.name for one in quick} < {one.name for one in every}
    assert [one.name for one in drill.choose(["kill-keepalived"], False)] == ["kill-keepalived"]
    assert all(one.title and not one.title.endswith(".") for one in every)
    with pytest.raises(Refusal, match="no drill nope"):
        drill.choose(["nope"], False)


def test_names_of_drills_need_no_option():
    assert named(["drill", "a", "b", "--repeat", "3"]) == ["drill", "--name", "a", "--name", "b", "--repeat", "3"]
    assert named(["deploy", "--limit", "x"]) == ["deploy", "--limit", "x"]


@pytest.fixture
def drills(load):
    """The drills of the compute nodes."""
    return load(drill.FOLDER / "compute.py")


def test_the_table_of_a_build_is_read_as_it_is_printed(drills):
    log = "10.77.0.22\t12\tx\nresort\t3\tx\ncache\t7\tx\n"
    client = "a-name-that-is-long"
    table = build.made_table(log, [client, "delta"], {client: "10.77.0.21", "delta": "10.77.0.22"}, 22)
    shown = "\n".join(["gcc -c objects", *table, ""])
    assert drills.made(shown) == {client: 0, "delta": 12, f"{client}, as a last resort": 3, "from the cache": 7}


@pytest.mark.parametrize(("program", "right"), [("print('is it?', flush=True); print('it is', flush=True)", True), ("print('no')", False)])
def test_a_drill_waits_until_a_task_says_something_and_not_for_ever(drills, program, right):
    said = drills.said
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        if right:
            said(child, "it is", 20)
        else:
            with pytest.raises(Failure, match=r"no$"):
                said(child, "it is", 20)


def test_a_drill_does_not_wait_for_a_silent_task(drills):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.PIPE, text=True) as child:
        began = time.monotonic()
        with pytest.raises(Failure, match="did not say"):
            drills.said(child, "it is", 1)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["list", "sources"])
def test_sources_are_asked_for_where_the_node_has_its_packages_from(drills, tmp_path, kind):
    """With an apt-get that shows what it was told to read."""
    etc = tmp_path / "apt"
    (etc / "sources.list.d").mkdir(parents=True)
    text = {"list": "# deb x\ndeb [signed-by=/k] http://here/debian trixie main\n", "sources": "Types: deb\nURIs: http://here/debian\n"}
    (etc / ("sources.list" if kind == "list" else "sources.list.d/debian.sources")).write_text(text[kind])
    program = tmp_path / "apt-get"
    program.write_text("#!/bin/sh\ncat parts/* >p_1.orig.tar.xz; touch p_1.orig.tar.xz.asc\n")
    program.chmod(0o755)
    script = drills.SOURCES.replace("/etc/apt", str(etc))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(["sh", "-c", f"set -- p{script}"], capture_output=True, text=True, check=True, env=env)
    shown = base64.b64decode(result.stdout).decode()
    wanted = {"list": "deb-src [signed-by=/k] http://here/debian trixie main\n", "sources": "Types: deb-src\nURIs: http://here/debian\n"}
    assert shown == wanted[kind]


def test_what_a_drill_deploys_it_deploys_alone(monkeypatch):
    """Nothing else runs playbooks in a drill."""
    told = []

    @contextlib.contextmanager
    def changing(cluster, task):
        told.append(f"locked for {task}")
        yield
        told.append("free")

    monkeypatch.setattr(lock, "changing", changing)
    monkeypatch.setattr(playbook, "run", lambda *_, **__: told.append("ran") or (0, None))
    lab = Broken()
    lab.cluster = None
    assert lab.play(["ansible-playbook"]) == (0, None)
    assert told == ["locked for drill", "ran", "free"]
    for path in [*drill.FOLDER.glob("*.py"), Path(drill.__file__), Path(drill_lab.__file__)]:
        assert path.read_text(encoding="utf-8").count("playbook.run(") == (path == Path(drill_lab.__file__)), path


def test_a_drill_that_somebody_else_keeps_from_deploying_has_failed():
    def body(lab):
        raise Refusal("psi runs ca.renew")

    assert drill.run_one(Broken(), drill.Drill("x", True, body)) == ([], "psi runs ca.renew")


def test_a_drill_that_trips_is_told_and_the_next_one_runs():
    def body(lab):
        return json.loads("no answer")

    assert drill.run_one(Broken(), drill.Drill("x", True, body))[1].startswith("JSONDecodeError: ")


def test_the_figures_are_kept_when_the_deploy_afterwards_cannot_be(monkeypatch):
    def refused(self, command):
        raise Refusal("psi runs ca.renew")

    lab = Broken()
    lab.cluster = None
    monkeypatch.setattr(Broken, "play", refused)
    monkeypatch.setattr(playbook, "command", lambda *_: [])
    assert drill.redeploy(lab) == (None, "psi runs ca.renew")
    monkeypatch.setattr(Broken, "play", lambda *_: (2, None))
    assert drill.redeploy(lab)[0] is None
    counts = {"changed": 1, "failures": 0, "unreachable": 0}
    left = {"hosts": {"gamma": counts}, "changes": [{"node": "gamma", "task": "jobs : Create the mount point"}]}
    monkeypatch.setattr(Broken, "play", lambda *_: (0, left))
    assert drill.redeploy(lab) == (1, "the deploy after the drills changed 1: gamma: jobs : Create the mount point")


@pytest.mark.parametrize(
    ("program", "admits"),
    [("exit 0", True), ("echo 'admin@10.77.0.21: Permission denied (publickey).' >&2; exit 255", False), ("echo gone >&2; exit 255", None)],
)
def test_a_node_that_does_not_answer_has_refused_nobody(program, admits, tmp_path, monkeypatch):
    """The certificate takes the place of the controller's own, on a connection of its own."""
    (tmp_path / "ssh").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{tmp_path}/told\n{program}\n")
    (tmp_path / "ssh").chmod(0o755)
    cluster = Cluster("lab")
    real = cluster.ssh("gamma")
    monkeypatch.setattr(cluster, "ssh", lambda node: [str(tmp_path / "ssh"), *real[1:]])
    lab = drill_lab.Lab(cluster)
    if admits is None:
        with pytest.raises(Failure, match="gamma does not answer: gone"):
            lab.admits("gamma", Path("/other-cert.pub"))
    else:
        assert lab.admits("gamma", Path("/other-cert.pub")) is admits
    told = (tmp_path / "told").read_text().splitlines()
    assert [word for word in told if word.startswith("CertificateFile=")] == ["CertificateFile=/other-cert.pub"]
    assert {"ControlPath=none", "BatchMode=yes"} <= set(told)
    assert told[-2:] == [real[-1], "true"]


def test_what_a_check_said_is_compared_with_what_the_deploy_did():
    drill.load()
    compared = drill.DRILLS["check-tells-the-truth"].body.__globals__["compared"]
    done = {("alpha", "change", "/etc/a"), ("alpha", "change", "/etc/b"), ("alpha", "restart", "named.service"), ("psi", "do", "Push")}
    told = {("alpha", "change", "/etc/a"), ("psi", "do", "Push"), ("beta", "change", "/etc/a")}
    said = []

    class Quiet:
        say = staticmethod(said.append)

    found = {figure.name.partition(": ")[2]: figure.value for figure in compared(Quiet(), "x", told, done) if figure.value}
    assert found == {
        "files changed": 2,
        "files changed, not told": 1,
        "services restarted or reloaded": 1,
        "services restarted or reloaded, not told": 1,
        "told, and not done": 1,
    }
    assert said == [
        "  x: not told: alpha change /etc/b",
        "  x: not told: alpha restart named.service",
        "  x: told, and not done: beta change /etc/a",
    ]
