# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording with a real ARA server that is up, down, or silent, and real runs of ansible-playbook."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("ara")

from ansible_collections.beowulf.cluster.plugins.callback.ara import Client
from ansible_collections.beowulf.cluster.plugins.plugin_utils import recordings
from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretStore

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
    scheme = "http"

    def __init__(self, folder: Path, database: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("ARA_")} | self.settings()
        folder.mkdir()
        shutil.copy(database, folder)
        self.prepare()
        self.start()

    def settings(self) -> dict[str, str]:
        return {"ARA_BASE_DIR": str(self.folder), "DJANGO_SETTINGS_MODULE": "ara.server.settings"}

    def prepare(self) -> None:
        """Do what is left to do before the start."""

    def options(self) -> list[str]:
        return []

    def start(self) -> None:
        command = [BIN / "gunicorn", "--bind", f"127.0.0.1:{self.port}", "--threads", "2", "--no-control-socket", *self.options()]
        self.process = subprocess.Popen([*command, "ara.server.wsgi"], env=self.env, stderr=subprocess.DEVNULL, start_new_session=True)
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

    def end(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self.process.wait(10)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """The database of a server that has recorded nothing yet: to make it takes longer than a run."""
    folder = tmp_path_factory.mktemp("ara")
    env = {**os.environ, "ARA_BASE_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "ara.server.settings"}
    subprocess.run([BIN / "ara-manage", "migrate"], env=env, check=True, capture_output=True)
    return folder / "ansible.sqlite"


@pytest.fixture
def server(tmp_path, database):
    started = Server(tmp_path / "ara", database)
    yield started
    started.end()


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
        inventory = env.pop("inventory", "h1,h2,")
        command = [BIN / "ansible-playbook", "-i", inventory, str(tmp_path / "play.yml"), *options]
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


# The cluster's deployer


def authority(folder: Path) -> None:
    """Make a root, and a certificate of its own for 127.0.0.1."""
    folder.mkdir(parents=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    root = ["-CA", "root.crt", "-CAkey", "root.key", "-subj", "/CN=psi", "-addext", "subjectAltName=IP:127.0.0.1"]
    for options in (
        ["-subj", "/CN=root", "-addext", "keyUsage=critical,keyCertSign", "-keyout", "root.key", "-out", "root.crt"],
        [*root, "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "node.key", "-out", "node.crt"],
    ):
        subprocess.run(["openssl", "req", "-x509", *key, "-days", "2", *options], cwd=folder, check=True, capture_output=True)


class Deployer(Server):
    """ARA as roles/ara sets it up: its settings, its account; gunicorn does the TLS that nginx does there."""

    scheme = "https"
    library = COLLECTIONS.parent / "roles/ara/files/usr/local/lib/beowulf/ara"

    def __init__(self, folder: Path, database: Path) -> None:
        self.state = folder / "state"
        authority(self.state / "ca")
        self.store = SecretStore(self.state, "lab")
        self.store.create()
        super().__init__(folder / "ara", database)

    def settings(self) -> dict[str, str]:
        required = {"ARA_READ_LOGIN_REQUIRED": "true", "ARA_WRITE_LOGIN_REQUIRED": "true"}
        return super().settings() | required | {"DJANGO_SETTINGS_MODULE": "cluster_settings", "PYTHONPATH": str(self.library)}

    def prepare(self) -> None:
        # Whatever starts first here says that it writes the settings.
        subprocess.run([BIN / "ara-manage", "check"], env=self.env, check=True, capture_output=True)
        assert self.account("--check") == self.account() == "created"
        assert self.account("--check") == self.account() == "same"

    def account(self, *options: str) -> str:
        command = [sys.executable, "-B", str(self.library / "account.py"), "admin", *options]
        password = self.store.get("ara_admin")
        return subprocess.run(command, env=self.env, input=password, capture_output=True, text=True, check=True).stdout.strip()

    def options(self) -> list[str]:
        return [f"--certfile={self.state}/ca/node.crt", f"--keyfile={self.state}/ca/node.key"]

    def get(self, what: str) -> dict:
        server = recordings.Server(self.url, f"{self.state}/ca/root.crt", "admin", self.store.get("ara_admin"))
        return server.get(f"/api/v1/{what}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory, database):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PASSWORD_STORE_DIR", "/nonexistent")
        started = Deployer(tmp_path_factory.mktemp("deployer"), database)
        yield started
        started.end()


@pytest.fixture
def deployer(shared, monkeypatch):
    """A server that runs, whatever the test before did to it, and the secrets and the root as they were."""
    monkeypatch.setenv("PASSWORD_STORE_DIR", "/nonexistent")
    kept = {path: path.read_bytes() for path in (shared.state / "ca" / "root.crt", shared.state / "secrets.yml")}
    if shared.process.poll() is not None:
        shared.start()
    yield shared
    if shared.process.poll() is None:
        shared.signal(signal.SIGCONT)
    for path, content in kept.items():
        path.write_bytes(content)


@pytest.fixture
def rack_play(play, tmp_path, deployer):
    """Run the play on a rack whose deployer is here; return its exit code, its warnings, and what it tells of the recording."""

    def begin(**env: str) -> subprocess.Popen:
        common = {"rack_cluster": "lab", "rack_state_dir": str(deployer.state)}
        hosts = {"h1": {}, "psi": {"rack_address": "127.0.0.1"}}
        inventory = {"all": {"vars": common, "hosts": hosts, "children": {"deployer": {"hosts": {"psi": {}}}}}}
        (tmp_path / "rack.yml").write_text(json.dumps(inventory))
        options = json.loads(env.pop("options", "[]"))
        told = {"BEOWULF_ARA_TOLD_IN": str(tmp_path / "told.json"), "BEOWULF_ARA_PORT": str(deployer.port)}
        return play("", *options, inventory=str(tmp_path / "rack.yml"), **(told | env))

    def run(**env: str) -> tuple[int, str, dict]:
        code, _out, err = finish(begin(**env))
        path = tmp_path / "told.json"
        return code, err, json.loads(path.read_text()) if path.exists() else {}

    run.begin = begin
    return run


@pytest.fixture
def local(server, tmp_path):
    """A script that answers with the address of a server of this machine."""
    script = tmp_path / "start.py"
    script.write_text(f"print('{server.url}')")
    return {"BEOWULF_ARA_SCRIPT": str(script)}


def test_a_run_is_recorded_on_the_deployer(deployer, rack_play, server, local):
    before = deployer.get("playbooks")["count"]
    code, err, told = rack_play(**local)
    assert (code, "ARA" in err) == (0, False), err
    [run] = deployer.get("playbooks?limit=1&order=-id")["results"]
    assert (deployer.get("playbooks")["count"], server.get("playbooks")["count"]) == (before + 1, 0)
    assert (run["status"], run["items"]["results"]) == ("completed", 8)
    assert told == {"url": f"{deployer.url}/playbooks/{run['id']}.html"}


def test_nobody_reads_or_writes_there_without_the_login(deployer):
    context = ssl.create_default_context(cafile=deployer.state / "ca" / "root.crt")
    for request in (
        urllib.request.Request(f"{deployer.url}/api/v1/playbooks"),
        urllib.request.Request(f"{deployer.url}/"),
        urllib.request.Request(f"{deployer.url}/api/v1/labels", data=b"{}", headers={"Content-Type": "application/json"}),
    ):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, context=context, timeout=5)
        assert raised.value.code == 401


def test_a_login_costs_little(deployer):
    """Django's own rounds take half a second of a processor for each request."""
    deployer.get("playbooks?limit=1")
    began = time.monotonic()
    for _attempt in range(10):
        deployer.get("playbooks?limit=1")
    assert time.monotonic() - began < 2


def stopped(deployer):
    deployer.end()


def silent(deployer):
    deployer.signal(signal.SIGSTOP)


def strange(deployer):
    authority(deployer.state.parent / "other")
    (deployer.state / "ca" / "root.crt").write_bytes((deployer.state.parent / "other" / "root.crt").read_bytes())


def rotated(deployer):
    deployer.store.rotate(["ara_admin"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (stopped, "there is no connection to it"),
        (silent, "it does not answer in time"),
        (strange, "its certificate is not trusted"),
        (rotated, "it does not accept the password"),
    ],
)
def test_the_local_server_steps_in_for_a_deployer_that_is_no_good(deployer, rack_play, server, local, fault, words):
    fault(deployer)
    began = time.monotonic()
    code, err, told = rack_play(**local)
    assert (code, "ARA" in err) == (0, False), err
    assert time.monotonic() - began < 15
    assert server.get("playbooks")["results"][0]["status"] == "completed"
    assert words in told["note"]
    assert told["url"].startswith(f"{server.url}/playbooks/")


def test_a_deployer_that_is_down_is_a_warning_where_nobody_reads_the_note(deployer, rack_play, local):
    stopped(deployer)
    code, err, _told = rack_play(**local, BEOWULF_ARA_TOLD_IN="")
    assert code == 0
    assert err.count("This run is recorded on this machine, not by ARA on the deployer: there is no connection to it") == 1


def test_before_there_is_a_deployer_nobody_is_warned(deployer, rack_play, server, local):
    (deployer.state / "ca" / "root.crt").unlink()
    code, err, _told = rack_play(**local, BEOWULF_ARA_TOLD_IN="")
    assert (code, "recorded" in err) == (0, False), err
    assert server.get("playbooks")["count"] == 1


def test_the_deployer_is_not_asked_when_the_embedded_server_is_wanted(deployer, rack_play, server, local):
    before = deployer.get("playbooks")["count"]
    code, err, _told = rack_play(**local, BEOWULF_ARA="embedded")
    assert (code, "ARA" in err) == (0, False), err
    assert (deployer.get("playbooks")["count"], server.get("playbooks")["count"]) == (before, 1)


def test_a_server_that_is_restarted_midway_loses_nothing(deployer, rack_play):
    process = rack_play.begin(options='["-e", "wait=1"]')
    before = deployer.get("tasks?limit=1")["count"]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and deployer.get("tasks?limit=1")["count"] < before + 2:
        time.sleep(0.1)
    deployer.end()
    time.sleep(1)
    deployer.start()
    code, _out, err = finish(process)
    assert (code, "ARA" in err) == (0, False), err
    [run] = deployer.get("playbooks?limit=1&order=-id")["results"]
    assert (run["status"], run["items"]["results"]) == ("completed", 8)
