# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record every run in ARA, beside the run: a server that is down, slow or silent costs it nothing but the record."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ara
type: notification
short_description: Record the run in ARA without waiting for it
version_added: 0.1.0
author: The beowulf.cluster authors
description:
  - Does what ARA's own callback plugin does, in a thread of its own, over HTTP.
  - The run goes on at its own speed; at its end it waits for what is not yet recorded.
  - The first time the server does not answer, recording ends with one warning.
  - Labels each record with the cluster, the commit of the playbook, the user, and the task that ran it.
options:
  api_server:
    description:
      - URL of the ARA server.
      - >-
        Empty for the one of the cluster's deployer. It is asked at its address on the LAN, has to prove by TLS who it is, and gets the
        secret C(ara_admin) of the cluster.
      - When neither answers, or the inventory is no rack, there is the one that O(server_script) starts.
    type: str
    default: ''
    env:
      - name: ARA_API_SERVER
    ini:
      - {section: ara, key: api_server}
  place:
    description: V(embedded) to leave the deployer alone, V(auto) not to.
    type: str
    choices: [auto, embedded]
    default: auto
    env:
      - name: BEOWULF_ARA
    ini:
      - {section: ara, key: place}
  deployer_port:
    description: TCP port of ARA on the deployer.
    type: int
    default: 443
    env:
      - name: BEOWULF_ARA_PORT
    ini:
      - {section: ara, key: deployer_port}
  told_in:
    description:
      - File that is to say, as JSON, where the run is recorded, C(url), and why not on the deployer, C(note).
      - Without it the latter is a warning, unless the cluster has no such server yet.
    type: path
    default: ''
    env:
      - name: BEOWULF_ARA_TOLD_IN
  server_script:
    description:
      - Python script that prints the URL of a local server when it is called with C(start), and starts it if need be.
      - Empty for none.
    type: path
    default: ''
    env:
      - name: BEOWULF_ARA_SCRIPT
    ini:
      - {section: ara, key: server_script}
  api_username:
    description: User of the server at O(api_server).
    type: str
    env:
      - name: ARA_API_USERNAME
    ini:
      - {section: ara, key: api_username}
  api_password:
    description: Password of O(api_username). Prefer the environment variable.
    type: str
    env:
      - name: ARA_API_PASSWORD
    ini:
      - {section: ara, key: api_password}
  api_ca:
    description: File with the certificate authority of the server at O(api_server).
    type: path
    env:
      - name: ARA_API_CA
    ini:
      - {section: ara, key: api_ca}
  api_timeout:
    description: Seconds to wait for an answer before recording is given up.
    type: int
    default: 5
    env:
      - name: ARA_API_TIMEOUT
    ini:
      - {section: ara, key: api_timeout}
  default_labels:
    description: Further labels.
    type: list
    elements: str
    default: []
    env:
      - name: ARA_DEFAULT_LABELS
    ini:
      - {section: ara, key: default_labels}
  task:
    description: What ran the playbook, for the label.
    type: str
    default: ansible-playbook
    env:
      - name: BEOWULF_TASK
  ignored_arguments:
    description: Arguments of the command line that are not recorded.
    type: list
    elements: str
    default: [extra_vars]
    env:
      - name: ARA_IGNORED_ARGUMENTS
    ini:
      - {section: ara, key: ignored_arguments}
  ignored_facts:
    description: Facts that are not recorded.
    type: list
    elements: str
    default: [ansible_env, env]
    env:
      - name: ARA_IGNORED_FACTS
    ini:
      - {section: ara, key: ignored_facts}
  ignored_files:
    description: Files whose content is not recorded, as parts of their paths or as V(regex:…).
    type: list
    elements: str
    default: [.ansible/tmp, vault, secret, password, /.beowulf/, 'regex:\.(key|pem|crt|p12)$', 'regex:/id_[a-z0-9]+$']
    env:
      - name: ARA_IGNORED_FILES
    ini:
      - {section: ara, key: ignored_files}
requirements:
  - ara
"""

import datetime
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import typing as t
from pathlib import Path
from types import FrameType, SimpleNamespace

from ansible.plugins.callback import CallbackBase
from ansible.utils.display import Display

from ansible_collections.beowulf.cluster.plugins.plugin_utils import programs, recordings

try:
    import requests
    from ara.clients.utils import get_client
    from ara.plugins.callback.ara_default import CallbackModule as AraCallback

    MISSING = None
except ImportError as error:
    AraCallback = CallbackBase
    MISSING = str(error)

display = Display()

PROBE_LIMIT = 1
SCRIPT_LIMIT = 45
INTERRUPT_LIMIT = 1.5
PATIENCE = 10
"""Seconds for a server that is being restarted, by this very run perhaps."""
RESTARTING = (502, 503)
"""What nginx says while there is nobody behind it (RFC 9110, sections 15.6.3 and 15.6.4)."""


class RecordingError(Exception):
    """The server refuses what it was sent, or there is no server."""


def now() -> str:
    """Return the time in the form in which ARA wants it."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def commit(folder: str) -> str | None:
    """Return the short commit of the work tree around `folder`, marked when it was changed since, or None."""
    command = ["git", "-C", folder, "describe", "--always", "--abbrev=9", "--exclude=*", "--dirty"]
    try:
        result = programs.run(command, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (None if result.returncode else result.stdout.strip()) or None


def _deployer_of(playbook: t.Any) -> dict[str, str] | None:
    """Return the arguments of `recordings.find` for the rack that a playbook runs on; None when its inventory is none."""
    try:
        inventory = playbook.get_plays()[0]._variable_manager._inventory
        common = inventory.groups["all"].get_vars()
        [deployer] = inventory.groups["deployer"].get_hosts()
        return {
            "state": str(common["rack_state_dir"]),
            "cluster": str(common["rack_cluster"]),
            "address": str(deployer.vars["rack_address"]),
        }
    except (AttributeError, LookupError, ValueError):
        return None


def _brief(error: Exception) -> str:
    """Say in a few words what the network library says in many."""
    if MISSING is None and isinstance(error, requests.Timeout):
        return "it does not answer in time"
    if MISSING is None and isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if MISSING is None and isinstance(error, requests.ConnectionError):
        return "there is no connection to it"
    return f"{error}" or type(error).__name__


class Client:
    """ARA's HTTP client with the times at which things happened, not those at which they are sent."""

    def __init__(self, client: t.Any) -> None:
        self._http = client.client
        self.moment = now()

    def _send(self, method: str, endpoint: str, payload: dict[str, t.Any]) -> t.Any:
        if "ended" in payload:
            payload["ended"] = self.moment
        if "started" in payload and endpoint != "/api/v1/results":
            payload["started"] = self.moment
        response = self._patiently(lambda: getattr(self._http, method)(endpoint, **payload))
        if response.status_code >= 400:
            raise RecordingError(f"{response.status_code} {response.reason} for {endpoint}")
        return response.json()

    @staticmethod
    def _patiently(send: t.Callable[[], t.Any]) -> t.Any:
        """Send, and once more for a while when there is no connection: the server may end an idle one in the moment it is used again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            late = time.monotonic() > deadline
            try:
                response = send()
                if response.status_code not in RESTARTING or late:
                    return response
            except requests.Timeout:
                raise
            except requests.exceptions.SSLError:
                raise
            except requests.ConnectionError:
                if late:
                    raise
            time.sleep(0.3)

    def post(self, endpoint: str, **payload: t.Any) -> t.Any:
        """Create a record."""
        return self._send("post", endpoint, payload)

    def patch(self, endpoint: str, **payload: t.Any) -> t.Any:
        """Change a record."""
        return self._send("patch", endpoint, payload)


class CallbackModule(AraCallback):
    """Hand each event over to a thread, in which ARA's own callback plugin records it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "beowulf.cluster.ara"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        if MISSING:
            display.warning(f"This run is not recorded: ARA is not installed ({MISSING}).")
            self.disabled = True
        self._events: queue.SimpleQueue[tuple[str, t.Callable[[], t.Any]] | None] = queue.SimpleQueue()
        self._recorder: threading.Thread | None = None
        self._stopped = threading.Event()
        self._refusals = 0
        self._deployer: dict[str, str] | None = None
        self._told: dict[str, str] = {}
        self._url = ""
        self._pid = os.getpid()

    def set_options(self, task_keys: t.Any = None, var_options: t.Any = None, direct: t.Any = None) -> None:
        """Read the options of this plugin, and set those of ARA's that it does not offer."""
        CallbackBase.set_options(self, task_keys=task_keys, var_options=var_options, direct=direct)
        if MISSING:
            return
        self.ignored_arguments = self.get_option("ignored_arguments")
        self.ignored_facts = self.get_option("ignored_facts")
        self.ignored_files = self.get_option("ignored_files")
        self._compile_ignored_file_patterns()
        self.localhost_as_hostname = False
        self.localhost_as_hostname_format = "fqdn"
        self.record_controller = self.record_user = self.record_task_content = True
        self.record_controller_name = os.uname().nodename
        self.record_user_name = os.environ.get("SUDO_USER")
        self.callback_threads = 0  # one thread, all in order: this one

    # The thread

    def _start(self) -> None:
        """Begin a record, and leave nothing in it of the playbook before: ARA's records of hosts and tasks belong to one playbook."""
        self.argument_labels = ["check", "tags", "skip_tags", "subset"]
        self.default_labels = [*self.get_option("default_labels"), f"task:{self.get_option('task')}"]
        self.playbook = self.play = self.task = None
        for memory in (self.file_cache, self.host_cache, self.task_cache, self.delegation_cache, self.result_started, self.result_ended):
            memory.clear()
        if not self._stopped.is_set():
            self._recorder = threading.Thread(target=self._record, name="ara", daemon=True)
            self._recorder.start()

    def _later(self, call: t.Callable[[], t.Any]) -> None:
        if not self._stopped.is_set():
            self._events.put((now(), call))

    def _record(self) -> None:
        try:
            self.client = self.client or self._connect()
            while event := self._events.get():
                self.client.moment, call = event
                self._attempt(call)
                if self._stopped.is_set():
                    break
        except (requests.RequestException, RecordingError, OSError, ValueError) as error:
            self._give_up(error)

    def _attempt(self, call: t.Callable[[], t.Any]) -> None:
        try:
            call()
        except requests.RequestException as error:
            self._give_up(error)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with one record must not cost the run
            self._refusals += 1
            if self.playbook is None:
                self._give_up(error)
            elif self._refusals == 1:
                display.warning(f"ARA does not record all of this run: {type(error).__name__}: {error}")

    def _give_up(self, error: Exception) -> None:
        self._stopped.set()
        display.warning(f"ARA does not record this run any further: {_brief(error)}")

    def _connect(self) -> Client:
        url = self.get_option("api_server")
        if url:
            try:
                return self._client(url)
            except (requests.RequestException, RecordingError, ValueError, OSError) as error:
                if not self._script():
                    raise
                display.warning(f"The ARA server {url} does not record this run, the local one does: {_brief(error)}")
        elif self._deployer and self.get_option("place") == "auto":
            try:
                return self._at(recordings.find(**self._deployer, port=self.get_option("deployer_port")))
            except recordings.NoServerError as error:
                self._note(error)
        return self._client(self._local_server(), local=True)

    def _note(self, error: recordings.NoServerError) -> None:
        """Say that the run is recorded here, and why."""
        note = f"this run is recorded on this machine, not by ARA on the deployer: {error}"
        if self._reader():
            self._tell(note=note)
        elif not error.expected:
            display.warning(f"{note[0].upper()}{note[1:]}")

    def _reader(self) -> str | None:
        """Return the file in which somebody looks for what is told."""
        path = self.get_option("told_in")
        return path if path and not os.path.isdir(path) else None  # of an empty path Ansible makes the current folder

    def _tell(self, **words: str) -> None:
        self._told |= words
        if path := self._reader():
            Path(path).write_text(json.dumps(self._told), encoding="utf-8")

    def _at(self, server: recordings.Server) -> Client:
        self._url = server.url
        client = get_client(
            client="http",
            endpoint=server.url,
            timeout=self.get_option("api_timeout"),
            verify=server.ca,
            username=server.username,
            password=server.password,
        )
        client.client.http.trust_env = False  # no proxy on the way to the LAN, and no authority but the cluster's
        return Client(client)

    def _client(self, url: str, local: bool = False) -> Client:
        access = {} if local else {name: self.get_option(f"api_{name}") for name in ("username", "password")}
        verify = (not local and self.get_option("api_ca")) or True
        self._url = url
        client = get_client(client="http", endpoint=url, timeout=PROBE_LIMIT, verify=verify, **access)
        if local:
            client.client.http.trust_env = False  # no proxy on the way to this machine
        probe = client.client.get("/api/v1/playbooks?limit=1")
        if probe.status_code >= 400:
            raise RecordingError(f"{probe.status_code} {probe.reason}")
        client.client.timeout = self.get_option("api_timeout")
        return Client(client)

    def _script(self) -> str | None:
        script = self.get_option("server_script")
        return script if os.path.isfile(script) else None  # of an empty path Ansible makes the current folder

    def _local_server(self) -> str:
        script = self._script()
        if not script:
            raise RecordingError("no server is configured")
        command = [sys.executable, "-P", script, "start"]
        try:
            result = programs.run(command, timeout=SCRIPT_LIMIT)
        except subprocess.TimeoutExpired as error:
            raise RecordingError(f"{script} start takes longer than {SCRIPT_LIMIT} s") from error
        if result.returncode:
            raise RecordingError(f"{Path(script).name} start: {result.stderr.strip() or 'failed'}")
        return result.stdout.strip()

    # Signals: ARA's own handler would talk to the server from within, and from each of Ansible's workers.

    def set_handler(self, sig: signal.Signals) -> None:
        """Mark the record of a run that is interrupted, if that can be done in a moment."""
        original = signal.getsignal(sig)

        def handler(number: int, frame: FrameType | None) -> None:
            if os.getpid() == self._pid and self._recorder is not None and not self._stopped.is_set():
                self._later(lambda: self._set_status("expired"))
                self._events.put(None)
                self._recorder.join(INTERRUPT_LIMIT)
            if callable(original):
                original(number, frame)
            else:
                sys.exit(128 + number)

        signal.signal(sig, handler)

    def _set_status(self, status: str) -> None:
        if self.playbook is not None:
            self.client.patch(f"/api/v1/playbooks/{self.playbook['id']}", status=status, ended=now())

    # Events: what they carry changes while the run goes on, so that each takes along what ARA will read.

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        """Begin to record."""
        if MISSING:
            return
        self._deployer = _deployer_of(playbook)
        self._start()
        self._later(lambda: self._begin(playbook))

    def _begin(self, playbook: t.Any) -> None:
        if found := commit(os.path.dirname(os.path.abspath(playbook._file_name))):
            self.default_labels.append(f"git:{found}")
        super().v2_playbook_on_start(playbook)
        if self.playbook is not None:
            self._tell(url=f"{self._url}/playbooks/{self.playbook['id']}.html")
        self.default_labels.append(f"user:{self.user}")

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        """Record the play, and the labels of the run."""
        play_vars = play._variable_manager.get_vars(play=play)["vars"]
        inventory = play._variable_manager._inventory
        cluster = inventory.groups["all"].get_vars().get("rack_cluster") if inventory else None
        image = SimpleNamespace(
            name=play.get_name(),
            _uuid=play._uuid,
            _variable_manager=SimpleNamespace(get_vars=lambda play: {"vars": play_vars}),
            _loader=SimpleNamespace(_FILE_CACHE=dict.fromkeys(play._loader._FILE_CACHE)),
        )
        self._later(lambda: self._begin_play(image, cluster))

    def _begin_play(self, play: t.Any, cluster: str | None) -> None:
        label = f"cluster:{cluster}"
        if cluster and label not in self.default_labels:
            self.default_labels.append(label)
        super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool, handler: bool = False) -> None:
        """Record the task."""
        name, path = task.get_name(), task.get_path()
        image = SimpleNamespace(
            _uuid=task._uuid,
            action=task.action,
            tags=list(task.tags),
            get_name=lambda: name,
            get_path=lambda: path,
        )
        record = super().v2_playbook_on_task_start
        self._later(lambda: record(image, is_conditional, handler))

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        """Record the handler."""
        self.v2_playbook_on_task_start(task, False, handler=True)

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        """Remember when the host began."""
        self.result_started[host.get_name()] = now()

    def _result(self, record: t.Callable[..., t.Any], result: t.Any, **kwargs: t.Any) -> None:
        started = self.result_started.get(result.host.get_name())
        image = SimpleNamespace(
            _host=result.host,
            _task=SimpleNamespace(_uuid=result.task._uuid, delegate_to=result.task.delegate_to),
            _source=result,
        )
        self._later(lambda: self._record_result(record, image, started, kwargs))

    def _record_result(self, record: t.Callable[..., t.Any], image: t.Any, started: str | None, kwargs: dict[str, t.Any]) -> None:
        image._result = image._source.result
        original = self.result_started
        if started:
            # ARA looks the time up by host; by now the host may have begun its next task.
            self.result_started = {image._host.get_name(): started}
        try:
            record(image, **kwargs)
        finally:
            self.result_started = original

    def v2_runner_on_ok(self, result: t.Any, **kwargs: t.Any) -> None:
        """Record the result."""
        self._result(super().v2_runner_on_ok, result, **kwargs)

    def v2_runner_on_failed(self, result: t.Any, **kwargs: t.Any) -> None:
        """Record the result."""
        self._result(super().v2_runner_on_failed, result, **kwargs)

    def v2_runner_on_unreachable(self, result: t.Any, **kwargs: t.Any) -> None:
        """Record the result."""
        self._result(super().v2_runner_on_unreachable, result, **kwargs)

    def v2_runner_on_skipped(self, result: t.Any, **kwargs: t.Any) -> None:
        """Record the result."""
        self._result(super().v2_runner_on_skipped, result, **kwargs)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """Record the end, and wait until all is recorded or the server has stopped to answer."""
        if self._recorder is None:
            return
        record = super().v2_playbook_on_stats
        self._later(lambda: record(stats))
        self._events.put(None)
        self._recorder.join()
