"""How the tests of the live cluster run beside each other, and what is told of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from testinfra.utils.ansible_runner import AnsibleRunner

from beowulf import verify
from beowulf.errors import Failure, OperatorError
from beowulf.process import INTERRUPTED, ROOT, environment, output, tool

ENV = {"ANSIBLE_INVENTORY_ENABLED": "ansible.builtin.yaml"}


def part(code=0, seconds=1.0, **outcomes):
    return verify.summarize({name: {"outcome": outcome, "seconds": 0.1} for name, outcome in outcomes.items()}, code, seconds)


@pytest.fixture
def nodes(tmp_path):
    """An inventory with two nodes."""
    path = tmp_path / "hosts.yml"
    path.write_text("all: {hosts: {alpha: {ansible_host: 192.0.2.1}, beta: {ansible_host: 192.0.2.2}}}")
    return path


@pytest.fixture
def run(tmp_path, nodes):
    """Run tests as a pass of verify does; return what pytest printed, and the summary."""

    def with_pytest(source, tests="not disturbs", *extra):
        (tmp_path / "test_x.py").write_text(source)
        summary = tmp_path / "summary.json"
        command = [tool("python"), "-m", "pytest", "-q", "-p", "beowulf.verify", f"--summary={summary}", str(tmp_path / "test_x.py")]
        done = output([*command, f"--ansible-inventory={nodes}", *verify.spread(tests, 2, tmp_path), *extra], 180, environment(**ENV))
        return done.stdout + done.stderr, json.loads(summary.read_text()) if summary.exists() else None

    return with_pytest


NOTE = """
import os, time, pytest
testinfra_hosts = ["ansible://all"]
def note(name):
    with open(os.path.join({folder!r}, name), "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")
    time.sleep(0.2)
"""


def workers(path):
    return len(set(path.read_text().split()))


def test_those_of_a_node_of_a_group_and_of_a_room_take_turns(run, tmp_path):
    source = NOTE.format(folder=str(tmp_path)) + (
        "@pytest.mark.parametrize('n', range(3))\ndef test_of_a_node(host, n): note(host.backend.host)\n"
        "@pytest.mark.xdist_group('own')\ndef test_of_a_group(host): note('own')\n"
        "@pytest.mark.disturbs('lan')\n@pytest.mark.parametrize('n', range(2))\ndef test_of_a_room(host, n): note('lan')\n"
        "@pytest.mark.disturbs('distcc')\ndef test_of_another(host): note('distcc')\n"
    )
    shown, summary = run(source)
    assert (summary["ok"], summary["passed"]) == (True, 8), shown
    assert {name: workers(tmp_path / name) for name in ("alpha", "beta", "own")} == {"alpha": 1, "beta": 1, "own": 1}
    assert (tmp_path / "alpha").read_text() != (tmp_path / "beta").read_text()
    assert not (tmp_path / "lan").exists()
    shown, summary = run(source, "disturbs")
    assert (summary["ok"], summary["passed"]) == (True, 6), shown
    assert {name: workers(tmp_path / name) for name in ("lan", "distcc")} == {"lan": 1, "distcc": 1}
    assert len((tmp_path / "alpha").read_text().split()) == 3


@pytest.mark.parametrize(
    "marks", ["disturbs('kitchen')", "disturbs()", "disturbs", "disturbs('lan')\n@pytest.mark.xdist_group('own')"], ids=str
)
def test_a_room_that_is_not_there_or_two_groups_are_refused(run, marks):
    shown, _summary = run(f"import pytest\n@pytest.mark.{marks}\ndef test_x(): pass\n", "disturbs", "--numprocesses=0")
    assert "disturbs names one of the rooms lan, deploys, distcc, backup" in shown


def test_a_test_is_called_in_the_summary_as_in_its_file(run):
    """With all that it may have in it, and without the group that xdist's own way puts behind it."""
    source = "import pytest\n@pytest.mark.parametrize('word', ['@/dev/null', 'a@b'])\ndef test_x(word): assert word != 'a@b', 'why'\n"
    shown, summary = run(source)
    assert [name.rpartition("::")[2] for name in summary["tests"]] == ["test_x[@/dev/null]", "test_x[a@b]"], shown
    assert (summary["exit"], summary["failed"], summary["passed"]) == (1, 1, 1)
    assert [test.get("reason", "").partition("\n")[0] for test in summary["tests"].values()] == ["", "AssertionError: why"]


def test_a_summary_is_that_of_both_passes():
    asked, disturbed = part(seconds=10.0, a="passed", b="skipped"), part(code=1, seconds=5.5, c="failed")
    whole = verify.merge([asked, disturbed])
    assert set(whole["tests"]) == {"a", "b", "c"}
    assert {name: whole[name] for name in ("ok", "exit", "seconds", "passed", "failed", "error", "skipped")} == {
        "ok": False, "exit": 1, "seconds": 15.5, "passed": 1, "failed": 1, "error": 0, "skipped": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("codes", "ok", "code"),
    [((0, 0), True, 0), ((0, 5), True, 0), ((5, 0), True, 0), ((5, 5), False, 5), ((1, 5), False, 1), ((0, 2), False, 2)],
)
def test_a_pass_without_tests_is_no_fault_unless_both_are(codes, ok, code):
    whole = verify.merge([part(one) for one in codes])
    assert (whole["ok"], whole["exit"]) == (ok, code)


@pytest.fixture
def passes(monkeypatch, tmp_path):
    """Let verify run passes that end as told: each with an exit code and the outcomes of its tests, or without having begun."""
    ran = []

    def prepare(*ends):
        def run(command, env, **options):
            code, outcomes = ends[len(ran)]
            ran.append(command[command.index("-m", 3) + 1])
            path = next(word.partition("=")[2] for word in command if word.startswith("--summary="))
            if outcomes is not None:
                with open(path, "w", encoding="utf-8") as file:
                    json.dump(part(code, **outcomes), file)
            return code

        monkeypatch.setattr(verify, "run", run)
        monkeypatch.setattr(verify.inventory, "write", lambda source, destination: {})
        return SimpleNamespace(name="lab", path=tmp_path / "lab.rack.yml", state=tmp_path), ran

    return prepare


def test_what_fails_in_the_first_pass_does_not_hide_the_second(passes, capsys):
    cluster, ran = passes((1, {"a": "failed", "b": "passed"}), (0, {"c": "passed"}))
    with pytest.raises(Failure, match="1 of 3 tests failed, 0 skipped"):
        verify.verify(cluster)
    assert ran == ["not disturbs", "disturbs"]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("---")] == [
        "--- verify lab: tests that only ask, 6 at a time",
        "--- verify lab: tests that disturb others, 4 at a time",
    ]


def test_all_is_well_when_only_one_pass_has_tests(passes, capsys):
    cluster, _ran = passes((5, {}), (0, {"c": "passed"}))
    verify.verify(cluster)
    assert "verify lab: all 1 tests passed in 2 s, 0 skipped" in capsys.readouterr().out


def test_for_machines_there_is_one_summary_and_nothing_else(passes, capsys):
    cluster, _ran = passes((0, {"a": "passed"}), (1, {"c": "failed"}))
    with pytest.raises(Failure) as raised:
        verify.verify(cluster, as_json=True)
    assert str(raised.value) == ""
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["exit"], set(told["tests"])) == (False, 1, {"a", "c"})


def test_an_interrupt_ends_both_passes(passes):
    cluster, ran = passes((INTERRUPTED, None), (0, {}))
    with pytest.raises(OperatorError, match="interrupted") as raised:
        verify.verify(cluster)
    assert (raised.value.code, ran) == (INTERRUPTED, ["not disturbs"])


def test_pytest_that_does_not_begin_is_a_failure(passes):
    cluster, _ran = passes((4, None), (4, None))
    with pytest.raises(Failure, match="pytest ended with 4 before the tests"):
        verify.verify(cluster)


BREAK = """
import pathlib, time
broken = pathlib.Path(__file__).with_name("broken")
def test_x():
    broken.touch()
    try:
        time.sleep(60)
    finally:
        time.sleep({seconds})
        broken.unlink()
"""


@pytest.mark.parametrize(("seconds", "workers_too"), [(7, False), (1, True)], ids=["one is told", "all are told"])
def test_an_interrupted_test_repairs_what_it_has_broken(tmp_path, nodes, seconds, workers_too):
    """Where only the process is told that has the workers, xdist gives them 10 s, and by itself tells them after 5; and where a terminal
    tells all, nobody interrupts the repair."""
    (tmp_path / "test_x.py").write_text(BREAK.format(seconds=seconds))
    command = [tool("python"), "-m", "pytest", "-q", "-p", "beowulf.verify", f"--ansible-inventory={nodes}", str(tmp_path / "test_x.py")]
    command += verify.spread("not disturbs", 1, tmp_path)
    # A shell that starts this in the background has told it to ignore interrupts.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(command, cwd=ROOT, env=environment(**ENV), stdout=subprocess.DEVNULL, preexec_fn=heed)
    began = time.monotonic()
    while not (tmp_path / "broken").exists() and time.monotonic() < began + 60:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    time.sleep(0.5)
    if workers_too:
        for worker in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text(encoding="ascii").split():
            os.kill(int(worker), signal.SIGINT)
    assert child.wait(timeout=30) == pytest.ExitCode.INTERRUPTED
    assert not (tmp_path / "broken").exists()


def test_testinfra_comes_in_once_to_a_node(tmp_path, nodes, monkeypatch):
    monkeypatch.setenv("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))
    monkeypatch.setenv("ANSIBLE_INVENTORY_ENABLED", "ansible.builtin.yaml")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    # Where the path is too long for a socket, each command comes in by itself.
    verify.share_connections(str(nodes), Path("/tmp") / ("x" * 80), "gw3")
    assert "ControlPath" not in AnsibleRunner.get_runner(str(nodes)).ansible_config["ssh_connection"]["ssh_args"]
    verify.share_connections(str(nodes), Path("/tmp/short"), "gw3")
    host = AnsibleRunner.get_runner(str(nodes)).get_host("alpha")
    command, arguments = host.backend._build_ssh_command("true")
    words = (" ".join(command) % tuple(arguments)).split()
    assert "ControlPath=/tmp/short/gw3-%h" in words
    assert "ControlMaster=auto" in words
    # The inventory has been read for others, too.
    verify.share_inventory(str(nodes), tmp_path)
    monkeypatch.setattr(AnsibleRunner, "_runners", {})
    monkeypatch.setenv("PATH", "")
    verify.share_inventory(str(nodes), tmp_path)
    assert AnsibleRunner.get_runner(str(nodes)).get_hosts() == ["alpha", "beta"]
    # Ansible's own connections, and those that tests open themselves, are not shared.
    assert "ControlPath" not in (ROOT / "ansible.cfg").read_text(encoding="utf-8")
