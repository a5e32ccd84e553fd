# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mitogen's strategy, on all processors, with threads instead of processes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mitogen_linear
short_description: Keep one Python on each node for the whole run, and run tasks in threads of one process
version_added: 0.1.0
author: The beowulf.cluster authors
description:
  - Mitogen's C(mitogen_linear) pins the processes of Ansible to processors, and whatever they start inherits that. On a machine with
    two processors all workers share the second one, and so do containers that a play starts, for as long as they live.
  - This is the same strategy without the pins.
  - Ansible forks a worker for every task on every host. The copy of its memory and a new connection to Mitogen's multiplexer cost the
    controller more than the task itself. So tasks run in threads of this process, which share one connection to the multiplexer.
  - What an assertion, a fact or a condition needs is in the memory of the controller already. Tasks that ask no host, and those whose
    condition is false or whose loop is empty, are done without a thread.
  - For the same reason a template or a condition is compiled once in a run, and not for each host that renders it.
  - A process of its own is left to tasks with C(async), C(throttle) or C(timeout), which need Ansible's own worker or a signal,
    and to C(pause).
requirements:
  - mitogen
"""

import contextlib
import copy
import functools
import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.process
import ansible_mitogen.strategy
from ansible._internal import _task
from ansible._internal._errors import _error_utils
from ansible.errors import AnsibleError
from ansible.executor.task_executor import TaskExecutor
from ansible.executor.task_result import _RawTaskResult
from ansible.plugins import loader as plugin_loader

from ansible_collections.beowulf.cluster.plugins.plugin_utils import template_cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from ansible.executor.play_iterator import PlayIterator
    from ansible.inventory.host import Host
    from ansible.playbook.play_context import PlayContext
    from ansible.playbook.task import Task

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()


def with_prefixes(*names: str) -> frozenset[str]:
    """Return all names that Ansible has for its own actions."""
    return frozenset(f"{prefix}{name}" for prefix in ("", "ansible.builtin.", "ansible.legacy.") for name in names)


def one_after_the_other(load: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
    """Return a loader of plugins that lets one thread load at a time: Ansible's own shows the others a module that is half loaded."""
    lock = threading.RLock()

    @functools.wraps(load)
    def wrapper(*args: Any, **options: Any) -> ModuleType:
        with lock:
            return load(*args, **options)

    return wrapper


plugin_loader.PluginLoader._load_module_source = one_after_the_other(plugin_loader.PluginLoader._load_module_source)

HERE = with_prefixes("assert", "debug", "fail", "set_fact", "set_stats", "validate_argument_spec")
"""Actions that connect to no host and wait for nothing."""
TERMINAL = with_prefixes("pause")
"""Actions that talk to the terminal, which a worker asks its parent for."""


def copy_of(task: Task) -> Task:
    """Return a copy of a task for one host, as a worker has it and changes it. Its block, which nobody changes, is the same."""
    own = task.copy(exclude_parent=True)
    own._parent = task._parent
    return own


class SharedBinding(ansible_mitogen.process.ClassicBinding):
    """A connection to the multiplexer that all threads of a process use, and none of them closes."""

    def close(self) -> None:
        """Close the connection in a worker process, which has it for itself."""
        if os.getpid() != self.model.owner:
            self.model.disconnect()


class SharedModel(ansible_mitogen.process.ClassicWorkerModel):
    """Mitogen's model of one multiplexer, with one connection to it for the whole run instead of one for each task."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.connecting = threading.Lock()
        super().__init__()

    def get_binding(self, inventory_name: str) -> SharedBinding:
        """Connect to the multiplexer unless it is done."""
        with self.connecting:
            # Of itself a broker ends with the thread that makes it.
            self.broker = self.broker or ansible_mitogen.process.Broker(install_watcher=False)
            super().get_binding(inventory_name)
        return SharedBinding(self)

    def disconnect(self) -> None:
        """Close the connection: no process may be forked while a thread has it."""
        self.on_binding_close()


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)):
    """The tasks of a play one after the other, each on all hosts at once."""

    _model: SharedModel | None = None

    def run(self, iterator: PlayIterator, play_context: PlayContext, result: int = 0) -> int:
        """Run a play, of which workers leave alone in memory what was there before it."""
        # The collector writes to every object that it looks at, and a forked process copies each page that it writes to.
        gc.collect()
        gc.freeze()
        template_cache.install()
        self._free = threading.BoundedSemaphore(len(self._workers))
        try:
            ended = super().run(iterator, play_context, result)
            self._wait_for_threads()
        except BaseException:
            # Whatever the threads wait for, who has interrupted a run does not; they end with their connection, or with this process.
            self._disconnect()
            raise
        return ended

    def _get_worker_model(self) -> SharedModel:
        """Return the model that all plays of a run share."""
        if StrategyModule._model is None:
            StrategyModule._model = SharedModel()
        return StrategyModule._model

    def _queue_task(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> None:
        """Do a task here when it asks no host, in a worker when it needs one, and otherwise in a thread."""
        here = not task.async_val and (
            (task.action in HERE and not task.until) or self._has_nothing_to_do(host, task, task_vars, play_context)
        )
        if not here and (task.async_val or task.throttle or task.timeout or task.action in TERMINAL):
            self._wait_for_threads()
            super()._queue_task(host, task, task_vars, play_context)
            return
        self._queued_task_cache[host.name, task._uuid] = {
            "host": host, "task": task, "task_vars": task_vars, "play_context": play_context,
        }  # fmt: skip
        self._tqm.send_callback("v2_runner_on_start", host, task)
        own, own_context = copy_of(task), play_context.copy()
        self._pending_results += 1
        if here:
            self._do(host, own, task_vars, own_context)
            return
        self._load_plugins(task, play_context)
        self._free.acquire()
        # A thread has context variables of its own, in which Ansible keeps what it is at.
        threading.Thread(target=self._do_and_free, args=(host, own, task_vars, own_context), daemon=True).start()

    def _do_and_free(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> None:
        """Do a task in a thread, and let the next one start."""
        try:
            self._do(host, task, task_vars, play_context)
        finally:
            self._free.release()

    def _do(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> None:
        """Do a task on a host, and hand its result to the strategy as a worker does."""
        try:
            with _task.TaskContext(task):
                result = self._executor(host, task, task_vars, play_context).run()
            self._final_q.send_task_result(_RawTaskResult(host=host, task=task, return_data=result, task_fields=task.dump_attrs()))
        except BaseException as error:  # noqa: BLE001  # whatever it is, the strategy waits for a result
            result = _error_utils.result_dict_from_exception(error)
            # In a run that was interrupted, nobody listens any more.
            with contextlib.suppress(OSError, ValueError):
                self._final_q.send_task_result(_RawTaskResult(host=host, task=task, return_data=result, task_fields={}))

    def _wait_for_threads(self) -> None:
        """Wait until no thread is at a task, and close their connection: what a thread holds at a fork, the worker never gets."""
        for _ in self._workers:
            self._free.acquire()
        for _ in self._workers:
            self._free.release()
        self._disconnect()

    @staticmethod
    def _disconnect() -> None:
        """Close the connection to the multiplexer, if there is one."""
        if StrategyModule._model:
            StrategyModule._model.disconnect()

    @staticmethod
    def _load_plugins(task: Task, play_context: PlayContext) -> None:
        """Load what a task needs before its threads look for it at the same time."""
        ansible_mitogen.loaders.module_loader.find_plugin(name=task.action, mod_type="")
        ansible_mitogen.loaders.action_loader.get(name=task.action, class_only=True)
        if isinstance(play_context.connection, str):
            ansible_mitogen.loaders.connection_loader.get(name=play_context.connection, class_only=True)

    def _executor(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> TaskExecutor:
        """Return what does a task on a host in a worker."""
        # Each removes its temporary files at its end.
        loader = copy.copy(self._loader)
        loader._tempfiles = set()
        return TaskExecutor(
            host, task, task_vars.copy(), play_context, loader, plugin_loader.get_plugin_loader_namespace(), self._final_q,
            self._variable_manager,
        )  # fmt: skip

    def _has_nothing_to_do(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> bool:
        """Say whether the loop of a task is empty, or its condition false. What cannot be told here, a worker finds out, or fails with."""
        try:
            if task.loop is not None or task.loop_with:
                own = copy_of(task)
                with _task.TaskContext(own):
                    return self._executor(host, own, task_vars, play_context)._get_loop_items() == []
            with _task.TaskContext(task):
                return bool(task.when) and not task._resolve_conditional(task.when, task_vars)
        except AnsibleError:
            return False
