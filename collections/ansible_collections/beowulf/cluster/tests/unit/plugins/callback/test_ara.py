# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording with a real ARA server that is up, down, or silent, and real runs of ansible-playbook."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ara")

from ansible_collections.beowulf.cluster.plugins.callback.ara import Client

COLLECTIONS = Path(__file__).resolve().parents[7]
BIN = Path(sys.executable).parent
PLAY = """
- name: First
  hosts: all
  gather_facts: false
  connection: local
  tasks:
    - {name: "Say {{ 1 + 1 }}", ansible.builtin.debug: {msg: "{{ word | default('x') }}"}}
    - {name: Wait, ansible.builtin.command: sleep 3, changed_when: false, when: wait is defined}
    - {name: Fail, ansible.builtin.command: "false", when: fail is defined}
    - {name: End, ansible.builtin.command: "true"}
"""


class Server:
    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {name: value for name, value in os.environ.items() if not name.startswith("ARA_")}
        env |= {"ARA_BASE_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "ara.server.settings"}
        subprocess.run([BIN / "ara-manage", "migrate"], env=env, check=True, capture_output=True)
        command = [BIN / "gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "2", "--no-control-socket", "ara.server.wsgi"]
        self.process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                self.get("playbooks")
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("ARA does not start")

    def get(self, what: str) -> dict:
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}", timeout=5) as response:
            return json.load(response)

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


@pytest.fixture
def server(tmp_path):
    started = Server(tmp_path / "ara")
    yield started
    started.signal(signal.SIGCONT)
    started.signal(signal.SIGTERM)
    started.process.wait(10)


@pytest.fixture
def play(tmp_path):
    def begin(url: str, *options: str, **env: str) -> subprocess.Popen:
        (tmp_path / "play.yml").write_text(PLAY)
        (tmp_path / "ansible.cfg").write_text("[defaults]\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARA_", "ANSIBLE_", "BEOWULF_"))}
        kept |= {
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_CALLBACKS_ENABLED": "beowulf.cluster.ara",
            "ARA_API_SERVER": url,
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [BIN / "ansible-playbook", "-i", "h1,h2,", str(tmp_path / "play.yml"), *options]
        return subprocess.Popen(command, env=kept | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, " ".join(err.split())


def until_it_waits(server: Server) -> None:
    """Return when the long task of the play has begun."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and "Wait" not in {task["name"] for task in server.get("tasks")["results"]}:
        time.sleep(0.1)


def test_a_run_is_recorded_with_labels_and_times(server, play):
    code, _out, err = finish(play(server.url, "-e", "word=secret", BEOWULF_TASK="deploy"))
    assert (code, "ARA" in err) == (0, False), err
    [run] = server.get("playbooks")["results"]
    assert run["status"] == "completed"
    assert run["items"]["results"] == 8
    labels = {label["name"] for label in run["labels"]}
    assert "task:deploy" in labels
    assert any(label.startswith("user:") for label in labels)
    assert {task["name"] for task in server.get("tasks")["results"]} >= {"Say 2", "Wait", "End"}
    assert "secret" not in json.dumps(server.get(f"playbooks/{run['id']}")["arguments"])


def test_each_playbook_of_a_run_has_a_record_of_its_own(server, play, tmp_path):
    (tmp_path / "second.yml").write_text(PLAY.replace("First", "Second"))
    code, _out, err = finish(play(server.url, str(tmp_path / "second.yml"), "--tags=all"))
    assert (code, "ARA" in err) == (0, False), err
    runs = sorted(server.get("playbooks")["results"], key=lambda run: run["id"])
    assert [(Path(run["path"]).name, run["status"], run["items"]["results"]) for run in runs] == [
        ("play.yml", "completed", 8),
        ("second.yml", "completed", 8),
    ]
    assert [run["items"]["hosts"] for run in runs] == [2, 2]
    labels = [sorted(label["name"] for label in run["labels"]) for run in runs]
    assert labels[0] == labels[1]
    assert "tags:all" in labels[1]


def test_a_failed_run_is_recorded_as_failed(server, play):
    code, _out, _err = finish(play(server.url, "-e", "fail=1"))
    assert code == 2
    assert server.get("playbooks")["results"][0]["status"] == "failed"
    assert server.get("results?status=failed")["count"] == 2


def test_a_task_lasts_as_long_as_it_did(server, play):
    finish(play(server.url, "-e", "wait=1"))
    [task] = [task for task in server.get("tasks")["results"] if task["name"] == "Wait"]
    assert task["duration"].startswith(("00:00:03", "00:00:04", "00:00:05"))


def test_a_server_that_falls_silent_costs_seconds_once(server, play):
    process = play(server.url, "-e", "wait=1", ARA_API_TIMEOUT="2")
    until_it_waits(server)
    began = time.monotonic()
    server.signal(signal.SIGSTOP)
    code, _out, err = finish(process)
    assert code == 0
    assert err.count("ARA does not record this run any further: it does not answer in time") == 1
    assert time.monotonic() - began < 15


def test_a_silent_server_at_the_start_costs_a_second(server, play):
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    code, _out, err = finish(play(server.url))
    assert code == 0
    assert err.count("ARA does not record this run any further") == 1
    assert time.monotonic() - began < 10


def test_no_server_costs_a_warning(play):
    code, out, err = finish(play("http://127.0.0.1:9"))
    assert code == 0
    assert "failed=0" in out
    assert err.count("ARA does not record this run any further: there is no connection to it") == 1


def test_the_local_server_steps_in(server, play, tmp_path):
    script = tmp_path / "start.py"
    script.write_text(f"import sys; assert sys.argv[1:] == ['start']; print('{server.url}')")
    code, _out, err = finish(play("http://127.0.0.1:9", BEOWULF_ARA_SCRIPT=str(script)))
    assert code == 0
    assert "does not record this run, the local one does" in err
    assert server.get("playbooks")["count"] == 1


def test_a_local_server_that_does_not_start_costs_a_warning(play, tmp_path):
    script = tmp_path / "start.py"
    script.write_text("import sys; sys.exit('no room')")
    code, _out, err = finish(play("", BEOWULF_ARA_SCRIPT=str(script)))
    assert code == 0
    assert "start.py start: no room" in err


def test_an_interrupted_run_is_marked_and_ends_at_once(server, play):
    process = play(server.url, "-e", "wait=1")
    until_it_waits(server)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    code, _out, _err = finish(process)
    assert code != 0
    assert time.monotonic() - began < 8
    assert server.get("playbooks")["results"][0]["status"] == "expired"


def test_what_is_sent_late_has_the_time_at_which_it_happened():
    sent = []
    answer = SimpleNamespace(status_code=200, json=dict)
    http = SimpleNamespace(post=lambda endpoint, **payload: sent.append(payload) or answer)
    client = Client(SimpleNamespace(client=http))
    client.moment = "then"
    client.post("/api/v1/tasks", started="now", ended="now")
    client.post("/api/v1/results", started="when the host began", ended="now")
    assert sent == [{"started": "then", "ended": "then"}, {"started": "when the host began", "ended": "then"}]
