# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show how far a run is: one line for each task, failures in full, and a table at the end."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
short_description: One line for each task, and who is still at work
version_added: 0.1.0
author: The beowulf.cluster authors
description:
  - Prints one line when a task is done, naming the nodes that changed or failed; tasks that every node skips are left out.
  - While a task takes long, says from time to time which nodes it waits for.
  - Failures are printed in full, with what helps where that is known.
  - Ends with a table by node, the time each play took, and the notes that M(ansible.builtin.set_stats) collected; a check also with
    the files that would change and the services that would restart, by node.
  - A pipe and a terminal get the same lines.
options:
  patience:
    description: Seconds after which a task that still runs is mentioned, again and again.
    type: float
    default: 15
    env:
      - name: BEOWULF_PROGRESS_PATIENCE
  summary:
    description: File to write the end of the run to, as JSON. Empty for none.
    type: path
    default: ''
    env:
      - name: BEOWULF_PROGRESS_SUMMARY
requirements:
  - set as stdout in configuration
"""

import json
import os
import threading
import time
import typing as t
from pathlib import Path

from ansible import constants as C
from ansible import context
from ansible.playbook.task_include import TaskInclude
from ansible.plugins.callback import CallbackBase

from ansible_collections.beowulf.cluster.plugins.plugin_utils import effects
from ansible_collections.beowulf.cluster.plugins.plugin_utils import progress_lines as say

COLORS = {"failed": C.COLOR_ERROR, "unreachable": C.COLOR_UNREACHABLE, "changed": C.COLOR_CHANGED}


class Task:
    """One task as it is seen: who is at work on it, and how it ended where."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.began = self.mentioned = time.monotonic()
        self.pending: dict[str, str] = {}
        self.states: dict[str, list[str]] = {}

    def color(self) -> str | None:
        """Return the colour of the worst that happened."""
        return next((COLORS[state] for state in COLORS if self.states.get(state)), None)


class CallbackModule(CallbackBase):
    """Show how far a run is."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "beowulf.cluster.progress"

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._play_began: float | None = None
        # Ansible calls from two threads, and the watch is a third.
        self._lock = threading.RLock()
        self._watch: threading.Thread | None = None
        self._done = threading.Event()
        self._tasks: dict[str, Task] = {}
        self._ran = 0
        self._plays = 0
        self._play = 0
        self._heading = ""
        self._times: list[tuple[str, float]] = []
        self._failures: list[dict[str, t.Any]] = []
        self._changes: list[dict[str, str]] = []
        self._effects: list[tuple[str, str, str]] = []

    def _print(self, line: str, color: str | None = None) -> None:
        self._display.display(say.plain(line), color=color)

    # The watch

    def _start_watch(self) -> None:
        if self._watch is None:
            self._watch = threading.Thread(target=self._watch_tasks, name="progress", daemon=True)
            self._watch.start()

    def _watch_tasks(self) -> None:
        patience = self.get_option("patience")
        while not self._done.wait(min(1.0, patience / 4)):
            with self._lock:
                for task in self._tasks.values():
                    now = time.monotonic()
                    if task.pending and now - task.mentioned >= patience:
                        task.mentioned = now
                        self._mention(task, now - task.began)

    def _mention(self, task: Task, seconds: float) -> None:
        attempts = sorted(set(filter(None, task.pending.values())))
        note = f" ({', '.join(attempts)})" if attempts else ""
        self._head()
        self._print(f"        {task.name}: {say.duration(seconds)}, waiting for {say.names(task.pending)}{note}", C.COLOR_VERBOSE)

    # Plays and tasks

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        """Count the plays."""
        self._plays = len(playbook.get_plays())
        self._play = 0
        self._start_watch()

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        """Begin a play; its heading is printed when something happens in it."""
        with self._lock:
            self._flush(everything=True)
            self._end_play()
            self._play += 1
            name = play.get_name().strip()
            nodes = [host.get_name() for host in play._variable_manager._inventory.get_hosts(play.hosts)]
            self._heading = f"[{self._play}/{self._plays}] {name} ({say.names(nodes)})"
            self._times.append((name, 0.0))
            self._play_began = time.monotonic()

    def _head(self) -> None:
        if self._heading:
            self._print(f"{say.clock(time.monotonic() - self._began):>6}  {self._heading}", C.COLOR_HIGHLIGHT)
            self._heading = ""

    def _end_play(self) -> None:
        if self._play_began is not None:
            self._times[-1] = (self._times[-1][0], time.monotonic() - self._play_began)
            self._play_began = None

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        """Begin a task."""
        self._begin(task)

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        """Begin a handler."""
        self._begin(task, "handler ")

    def v2_playbook_on_cleanup_task_start(self, task: t.Any) -> None:
        """Begin a task of the end."""
        self._begin(task)

    def _begin(self, task: t.Any, prefix: str = "") -> None:
        with self._lock:
            self._flush()
            self._tasks.setdefault(task._uuid, Task(prefix + task.get_name().strip(), task.get_path() or ""))

    def v2_runner_on_start(self, host: t.Any, task: t.Any) -> None:
        """Remember who is at work."""
        with self._lock:
            if task._uuid in self._tasks:
                self._tasks[task._uuid].pending[host.get_name()] = ""

    def v2_runner_retry(self, result: t.Any) -> None:
        """Remember how often it was tried."""
        with self._lock:
            if result.task._uuid in self._tasks:
                attempt, attempts = result.result.get("attempts"), result.result.get("retries")
                self._tasks[result.task._uuid].pending[result.host.get_name()] = f"attempt {attempt} of {attempts}"

    def _flush(self, everything: bool = False) -> None:
        for uuid, task in list(self._tasks.items()):
            if task.pending and not everything:
                continue
            del self._tasks[uuid]
            if any(task.states.get(state) for state in ("unreachable", "failed", "ignored", "changed", "ok")):
                self._ran += 1
                self._head()
                stamp = say.clock(time.monotonic() - self._began)
                self._print(f"{stamp:>6}    {task.name}: {say.outcome(task.states)}", task.color())

    # Results

    def _end(self, result: t.Any, state: str) -> Task:
        host = result.host.get_name()
        task = self._tasks.get(result.task._uuid)
        if task is None:
            task = self._tasks[result.task._uuid] = Task(result.task.get_name().strip(), result.task.get_path() or "")
        task.pending.pop(host, None)
        task.states.setdefault(state, []).append(host)
        return task

    def v2_runner_on_ok(self, result: t.Any) -> None:
        """Note a host that is done."""
        with self._lock:
            if isinstance(result.task, TaskInclude):
                self._tasks.pop(result.task._uuid, None)
                return
            self._handle_warnings(result.result)
            task = self._end(result, "changed" if result.result.get("changed") else "ok")
            if result.result.get("changed"):
                self._changes.append({"node": result.host.get_name(), "task": task.name})
                if result.task.loop is None and not result.task.loop_with:
                    self._note_effects(result)
            if result.task.action in C._ACTION_DEBUG and not result.result.get("_ansible_no_log"):
                self._head()
                self._say_debug(result)
            elif self._run_is_verbose(result):
                self._head()
                self._print(f"        {result.host.get_name()}: {self._dump_results(result.result)}")

    def v2_runner_item_on_ok(self, result: t.Any) -> None:
        """Note what an item did: the result of the whole loop does not have its arguments."""
        if result.result.get("changed"):
            with self._lock:
                self._note_effects(result)

    def _note_effects(self, result: t.Any) -> None:
        task = result.task
        node = str(task.delegate_to or result.host.get_name())
        found = effects.effects(task.action, result.task_fields.get("args") or {}, result.result, task.get_name().strip())
        self._effects += [(node, verb, say.plain(thing)) for verb, thing in found]

    def _say_debug(self, result: t.Any) -> None:
        shown = result.result.get("msg")
        text = shown if isinstance(shown, str) else self._dump_results(result.result, indent=4)
        for line in text.strip().splitlines():
            self._print(f"        {result.host.get_name()}: {line}", C.COLOR_DEBUG)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        """Note a host that has nothing to do."""
        with self._lock:
            self._end(result, "skipped")

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        """Print a failure in full."""
        with self._lock:
            task = self._end(result, "ignored" if ignore_errors else "failed")
            self._handle_warnings(result.result)
            if not ignore_errors:
                self._fail(result, task, "FAILED")

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        """Print why a host cannot be reached."""
        with self._lock:
            task = self._end(result, "unreachable")
            self._fail(result, task, "UNREACHABLE")

    def _fail(self, result: t.Any, task: Task, word: str) -> None:
        host, path = result.host.get_name(), _short(task.path)
        self._head()
        self._print(f"        {host} {word} in {task.name}", C.COLOR_ERROR)
        lines = say.failure(host, result.result)
        for line in [*lines, *([f"task: {path}"] if path else [])]:
            self._print(f"            {line}", C.COLOR_ERROR)
        self._failures.append({"node": host, "state": word.lower(), "task": task.name, "path": path, "lines": lines})

    def _handle_warnings(self, res: t.Any) -> None:
        """Show the warnings that a node gave."""
        texts = [str(text) for text in res.pop("warnings", None) or ()]
        if C.config.get_config_value("DEPRECATION_WARNINGS"):
            texts += [f"deprecated: {one.get('msg', one)}" for one in res.pop("deprecations", None) or ()]
        for text in texts:
            self._display.warning(say.plain(text))

    def v2_on_file_diff(self, result: t.Any) -> None:
        """Print what changes, when --diff asks for it."""
        shown = [r for r in result.result.get("results") or [result.result] if r.get("diff") and r.get("changed")]
        if result.task.diff or C.DIFF_ALWAYS:
            with self._lock:
                for one in shown:
                    if text := self._get_diff(_plain_diff(one["diff"])):
                        self._head()
                        self._display.display(text)  # with colours of Ansible's own

    # The end

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Say why a play ends early."""
        with self._lock:
            self._flush(everything=True)
            self._print("        no node is left for this play", C.COLOR_ERROR)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        """Print the table by node and the time of each play."""
        with self._lock:
            self._flush(everything=True)
            self._end_play()
            self._done.set()
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        columns = ("ok", "changed", "failures", "unreachable", "skipped", "rescued", "ignored")
        kept = [c for c in columns if c in ("ok", "changed") or any(summary[c] for summary in hosts.values())]
        rows = [[host, *(summary[column] for column in kept)] for host, summary in hosts.items()]
        self._print("")
        head, *lines = say.table(["node", *("failed" if c == "failures" else c for c in kept)], rows)
        self._print(head, C.COLOR_HIGHLIGHT)
        for line, summary in zip(lines, hosts.values(), strict=True):
            bad = summary["failures"] or summary["unreachable"]
            self._print(line, C.COLOR_ERROR if bad else C.COLOR_CHANGED if summary["changed"] else C.COLOR_OK)
        self._print("")
        took = [[name, say.duration(seconds)] for name, seconds in self._times if seconds >= 0.5]
        for line in say.table(["play", "time"], [*took, ["all", say.duration(time.monotonic() - self._began)]]):
            self._print(line)
        if self._effects and context.CLIARGS.get("check"):
            self._print("\nwould change", C.COLOR_HIGHLIGHT)
            for line in effects.lines(self._effects):
                self._print(line, None if line.startswith(" ") else C.COLOR_CHANGED)
        notes = [say.plain(note) for host in stats.custom.values() for note in _list(host.get("notes"))]
        for note in notes:
            self._print(f"note: {note}", C.COLOR_WARN)
        self._write_summary(hosts, notes)

    def _write_summary(self, hosts: dict[str, t.Any], notes: list[str]) -> None:
        if path := self.get_option("summary"):
            summary = {
                "seconds": round(time.monotonic() - self._began, 1),
                "tasks": self._ran,
                "hosts": hosts,
                "failures": self._failures,
                "changes": self._changes,
                "effects": self._effects,
                "notes": notes,
                "plays": [{"name": name, "seconds": round(seconds, 1)} for name, seconds in self._times],
            }
            try:
                Path(path).write_text(json.dumps(summary), encoding="utf-8")
            except OSError as error:
                self._display.warning(f"The summary cannot be written: {error}")


def _list(value: t.Any) -> list[str]:
    """Return what set_stats collected as a list of texts."""
    return [] if value is None else [str(one) for one in (value if isinstance(value, list) else [value])]


def _plain_diff(diff: t.Any) -> t.Any:
    """Return what differs, in texts that may be shown."""
    if isinstance(diff, str):
        return say.plain(diff)
    if isinstance(diff, dict):
        return {key: _plain_diff(value) for key, value in diff.items()}
    return [_plain_diff(value) for value in diff] if isinstance(diff, list) else diff


def _short(path: str) -> str:
    """Return a path as seen from here, when that is shorter."""
    return min(path, os.path.relpath(path), key=len) if path else ""
