"""What a node says of its services, and of files that they have not read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.modules import service_state

SYSTEMCTL = """#!/bin/sh
for unit; do :; done
case $unit in
triggered) echo NeedDaemonReload=yes ;;
*) echo "Triggers=$TRIGGERS" ;;
esac
printf 'LoadState=loaded\\nActiveState=%s\\nStateChangeTimestamp=%s\\nUnitFileState=%s\\n' "$STATE" "$SINCE" enabled
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the module beside a systemctl that says what it is told."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def ask(paths, since, state="active", code=0, triggers=""):
        question = json.dumps({"ANSIBLE_MODULE_ARGS": {"name": ["some"], "reads": [str(path) for path in paths]}})
        environment = {**os.environ, "STATE": state, "SINCE": since, "TRIGGERS": triggers, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, service_state.__file__], input=question, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        return answer["units"]["some"] if code == 0 else answer

    return ask


def written(path: Path, text: str = "") -> Path:
    """Write a file with a time of modification of long ago, as a copy that keeps it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (0, 0))
    return path


def test_a_file_that_came_later_is_unread(run, tmp_path):
    path = written(tmp_path / "etc" / "some.conf")
    answer = run([path], "Sat 2020-11-21 15:40:43.159547 UTC")
    assert (answer["active"], answer["unread"]) == (True, [str(path)])


def test_a_file_of_before_is_read(run, tmp_path):
    answer = run([written(tmp_path / "etc" / "some.conf")], "Wed 2070-01-01 00:00:00.000000 UTC")
    assert answer["unread"] == []


def test_folders_are_looked_through(run, tmp_path):
    paths = [written(tmp_path / "etc" / "deep" / name) for name in ("a", "b")]
    assert run([tmp_path / "etc", tmp_path / "none"], "Sat 2020-11-21 15:40:43.159547 UTC")["unread"] == [str(path) for path in paths]


def test_a_link_that_leads_nowhere_is_no_reason(run, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "link").symlink_to(tmp_path / "none")
    assert run([tmp_path / "etc"], "Sat 2020-11-21 15:40:43.159547 UTC")["unread"] == []


@pytest.mark.parametrize(("state", "since"), [("inactive", ""), ("failed", "Sat 2020-11-21 15:40:43.159547 UTC")])
def test_who_does_not_run_reads_it_when_started(run, tmp_path, state, since):
    answer = run([written(tmp_path / "some.conf")], since, state)
    assert (answer["active"], answer["unread"]) == (False, [])


def test_an_answer_that_cannot_be_read_is_told(run, tmp_path):
    answer = run([tmp_path], "n/a", code=1)
    assert "cannot tell since when some is as it is" in answer["msg"]


@pytest.mark.parametrize(("triggers", "told"), [("", False), ("other", False), ("triggered", True), ("other triggered", True)])
def test_a_unit_that_a_timer_starts_is_read_again(run, tmp_path, triggers, told):
    assert run([tmp_path], "Wed 2070-01-01 00:00:00.000000 UTC", triggers=triggers)["reload"] is told
