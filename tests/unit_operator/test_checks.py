from __future__ import annotations

import json
import sys

import pytest

from beowulf import checks, verify
from beowulf.errors import Failure
from beowulf.process import environment, output, tool


def step(code):
    return [sys.executable, "-c", f"raise SystemExit({code})"]


def test_later_steps_run_after_a_failure(capfd):
    assert not checks.run_steps([("one", step(3)), ("two", step(0))])
    shown = capfd.readouterr().out
    assert "--- one: FAILED (3)" in shown
    assert "--- two: ok" in shown
    assert checks.run_steps([("two", step(0))])


def test_all_kinds_run_and_the_table_says_how(monkeypatch, capsys):
    def bad():
        raise Failure("This machine cannot run the lab.")

    monkeypatch.setattr(checks, "lint", lambda: None)
    monkeypatch.setattr(checks, "unit", bad)
    monkeypatch.setattr(checks, "full_cluster", lambda: None)
    with pytest.raises(Failure, match=r"FAILED: test\.unit$"):
        checks.every()
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
