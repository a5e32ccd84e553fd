# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mitogen's strategy, on all processors, and without a process for what asks no node."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mitogen_linear
short_description: Keep one Python on each node for the whole run, and start no process for what asks no node
version_added: 0.1.0
author: The beowulf.cluster authors
description:
  - Mitogen's C(mitogen_linear) pins the processes of Ansible to processors, and whatever they start inherits that. On a machine with
    two processors all workers share the second one, and so do containers that a play starts, for as long as they live.
  - This is the same strategy without the pins.
  - Ansible forks a worker for every task on every host, also to find out that there is nothing to do. What an assertion, a fact or a
    condition needs is in the memory of the controller already, and the fork costs ten times as much. So tasks that ask no host, and those
    whose condition is false or whose loop is empty, are done without one.
requirements:
  - mitogen
"""

import gc
from typing import TYPE_CHECKING, Any

import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy
from ansible._internal import _task
from ansible.errors import AnsibleError
from ansible.executor.task_executor import TaskExecutor
from ansible.executor.task_result import _RawTaskResult
from ansible.plugins import loader as plugin_loader

if TYPE_CHECKING:
    from ansible.executor.play_iterator import PlayIterator
    from ansible.inventory.host import Host
    from ansible.playbook.play_context import PlayContext
    from ansible.playbook.task import Task

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()

HERE = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "ansible.builtin.", "ansible.legacy.")
    for name in ("assert", "debug", "fail", "set_fact", "set_stats", "validate_argument_spec")
)
"""Actions that connect to no host and wait for nothing."""


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)):
    """The tasks of a play one after the other, each on all hosts at once."""

    def run(self, iterator: PlayIterator, play_context: PlayContext, result: int = 0) -> int:
        """Run a play, of which workers leave alone in memory what was there before it."""
        # The collector writes to every object that it looks at, and a forked process copies each page that it writes to.
        gc.collect()
        gc.freeze()
        return super().run(iterator, play_context, result)

    def _queue_task(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> None:
        """Do a task here when it asks no host, and let Ansible start a worker for any other."""
        if task.async_val or not ((task.action in HERE and not task.until) or self._has_nothing_to_do(host, task, task_vars, play_context)):
            super()._queue_task(host, task, task_vars, play_context)
            return
        self._queued_task_cache[host.name, task._uuid] = {
            "host": host, "task": task, "task_vars": task_vars, "play_context": play_context,
        }  # fmt: skip
        self._tqm.send_callback("v2_runner_on_start", host, task)
        # A worker has all of it for itself, and changes it.
        own = task.copy()
        with _task.TaskContext(own):
            result = self._executor(host, own, task_vars, play_context).run()
        self._final_q.send_task_result(_RawTaskResult(host=host, task=own, return_data=result, task_fields=own.dump_attrs()))
        self._pending_results += 1

    def _executor(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> TaskExecutor:
        """Return what does a task on a host in a worker."""
        return TaskExecutor(
            host, task, task_vars.copy(), play_context, self._loader, plugin_loader.get_plugin_loader_namespace(), self._final_q,
            self._variable_manager,
        )  # fmt: skip

    def _has_nothing_to_do(self, host: Host, task: Task, task_vars: dict[str, Any], play_context: PlayContext) -> bool:
        """Say whether the loop of a task is empty, or its condition false. What cannot be told here, a worker finds out, or fails with."""
        try:
            if task.loop is not None or task.loop_with:
                own = task.copy()
                with _task.TaskContext(own):
                    return self._executor(host, own, task_vars, play_context)._get_loop_items() == []
            with _task.TaskContext(task):
                return bool(task.when) and not task._resolve_conditional(task.when, task_vars)
        except AnsibleError:
            return False
