from __future__ import annotations

import json
import sys

import pytest

from beowulf import ci, verify
from beowulf.errors import Failure, Refusal
from beowulf.process import ROOT, environment, output, tool

TESTS = ROOT / verify.TESTS


def step(code):
    return [sys.executable, "-c", f"raise SystemExit({code})"]


def test_later_steps_run_after_a_failure(capfd):
    assert not ci.run_steps([("one", step(3)), ("two", step(0))])
    shown = capfd.readouterr().out
    assert "--- one: FAILED (3)" in shown
    assert "--- two: ok" in shown
    assert ci.run_steps([("two", step(0))])


def test_all_kinds_run_and_the_table_says_how(monkeypatch, capsys):
    def bad():
        raise Failure("This machine cannot run the lab.")

    monkeypatch.setattr(ci, "lint", lambda: None)
    monkeypatch.setattr(ci, "unit", bad)
    monkeypatch.setattr(ci, "cluster", lambda: None)
    with pytest.raises(Failure, match=r"FAILED: test\.unit$"):
        ci.every()
    shown = capsys.readouterr()
    assert "This machine cannot run the lab." in shown.err
    assert [line.split()[:2] for line in shown.out.split("\n")[1:4]] == [
        ["test.lint", "ok"],
        ["test.unit", "FAILED"],
        ["test.cluster", "ok"],
    ]


def test_the_summary_of_verify_has_every_outcome(tmp_path):
    (tmp_path / "test_x.py").write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\n"
        "@pytest.fixture\ndef broken(): raise OSError('x')\ndef test_error(broken): pass\n"
        "def test_skipped(): pytest.skip('why')\n"
    )
    summary = tmp_path / "summary.json"
    command = [tool("python"), "-m", "pytest", "-q", "-p", "beowulf.verify", f"--summary={summary}", str(tmp_path)]
    output(command, env=environment())
    result = json.loads(summary.read_text())
    assert {key: result[key] for key in ("ok", "passed", "failed", "error", "skipped")} == {
        "ok": False, "passed": 1, "failed": 1, "error": 1, "skipped": 1,
    }  # fmt: skip
    reasons = {name.rpartition("::")[2]: test.get("reason", "") for name, test in result["tests"].items()}
    assert "1 == 2" in reasons["test_bad"]
    assert "why" in reasons["test_skipped"]


def test_verify_hands_the_cluster_to_testinfra(tmp_path):
    command = verify.command(tmp_path / "inventory.yml", tmp_path / "summary.json")
    # Each file says which nodes it asks; --hosts would overrule them all.
    assert not [word for word in command if word.startswith("--hosts")]
    assert f"--ansible-inventory={tmp_path / 'inventory.yml'}" in command
    assert {word for word in command if word.endswith(".py")} == {str(path.relative_to(ROOT)) for path in TESTS.glob("test_*.py")}


def test_verify_runs_the_files_of_the_chosen_functions(tmp_path):
    assert verify.files("dns,vip") == ["tests/testinfra/test_dns.py", "tests/testinfra/test_vip.py"]
    with pytest.raises(Refusal, match="no tests of 'dnss'") as raised:
        verify.files("vip,dnss")
    assert raised.value.code == 2


def test_verify_leaves_out_the_tests_on_other_nodes(tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {hosts: {alpha: {}, beta: {}}}")
    (tmp_path / "test_x.py").write_text("testinfra_hosts = ['ansible://all']\ndef test_of_a_node(host): pass\ndef test_of_none(): pass\n")
    command = [tool("python"), "-m", "pytest", "-q", "--collect-only", "-p", "beowulf.verify", "--nodes=beta"]
    command += [f"--ansible-inventory={tmp_path / 'hosts.yml'}", str(tmp_path)]
    shown = output(command, env=environment(ANSIBLE_INVENTORY_ENABLED="ansible.builtin.yaml")).stdout
    assert "test_of_a_node[ansible://beta]" in shown
    assert "test_of_a_node[ansible://alpha]" not in shown
    assert "test_of_none" in shown


def test_a_scenario_that_is_not_there_is_refused():
    with pytest.raises(Refusal, match="There are: compute, default, deployer, lanservices, router") as raised:
        ci.cluster("ruter")
    assert raised.value.code == 2


@pytest.mark.parametrize(
    ("broken", "done"),
    [
        ("", ["destroy", "converge", "idempotence", "check", "verify", "side-effect", "destroy"]),
        ("check", ["destroy", "converge", "idempotence", "check", "destroy"]),
    ],
)
def test_a_scenario_runs_to_the_first_failure_and_leaves_nothing(monkeypatch, broken, done):
    ran = []

    def run(command, env):
        ran.append((command[1], "ANSIBLE_STRATEGY" in env))
        return 2 if command[1] == broken else 0

    monkeypatch.delenv("BEOWULF_STRATEGY", raising=False)
    monkeypatch.delenv("ANSIBLE_STRATEGY", raising=False)
    monkeypatch.setattr(ci, "run", run)
    assert ci.run_scenario("router") == (not broken)
    # Set up and checked as `deploy` does it, and repeated as ansible-playbook alone does it
    assert ran == [(action, action in ("converge", "check")) for action in done]


def test_the_full_cluster_is_repeated_as_deploy_does_it_and_a_node_of_each_type_by_ansible_alone(monkeypatch):
    ran = []

    def run(command, env):
        ran.append((command[1:], "ANSIBLE_STRATEGY" in env))
        return 0

    monkeypatch.delenv("BEOWULF_STRATEGY", raising=False)
    monkeypatch.delenv("ANSIBLE_STRATEGY", raising=False)
    monkeypatch.setattr(ci, "run", run)
    assert ci.run_scenario("default")
    again = ["idempotence", "--scenario-name=default"]
    plain = [*again, "--", "--limit=router[0]:deployer[0]:lanservices[0]:compute[0]"]
    assert [one for one in ran if one[0][0] == "idempotence"] == [(again, True), (plain, False)]
