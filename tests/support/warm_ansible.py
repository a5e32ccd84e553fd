"""Runs ansible-playbook as often as it is asked to; what costs most of a short run is done once, before the first.

That is to load Ansible and the collections, and with Mitogen the process that has the connections, and the Python at their other end.

A request is a line of JSON on the standard input: the arguments of ansible-playbook, its environment, the folder to be in, and files for
its standard output and standard error. It is done in a fork of this process, and answered by a line with the exit code. What Ansible reads
from the environment when it is loaded (ANSIBLE_...) is that of this process.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import sys

from ansible import constants
from ansible.cli.playbook import main
from ansible.config.manager import cleanup_tmp_file
from ansible.plugins import loader

# What a run loads besides, sooner or later.
LOADED = (
    "ansible.plugins.action.normal", "ansible.plugins.callback.default", "ansible.plugins.connection.local",
    "ansible.plugins.strategy.linear", "ansible_mitogen.mixins", "ansible_mitogen.planner", "ansible_mitogen.process",
    "ansible_mitogen.strategy",
    "ansible_collections.ansible.builtin", "ansible_collections.beowulf.cluster.plugins.inventory.rack",
)  # fmt: skip


def load() -> type:
    """Load what the runs need, and start what they share; return the strategy."""
    loader.init_plugin_loader()
    # Each run would do it again, and Ansible warns of that.
    loader._configure_collection_loader = lambda _paths: None
    for name in LOADED:
        importlib.import_module(name)
    strategy = loader.strategy_loader.get(constants.DEFAULT_STRATEGY, class_only=True)
    if hasattr(strategy, "_model"):
        strategy._model = sys.modules[strategy.__module__].SharedModel()
    return strategy


def begin(strategy: type, arguments: list[str], env: dict[str, str], cwd: str, out: str, err: str) -> None:
    """Do in this process, a fork, what ansible-playbook does in one of its own."""
    # The folder of temporary files is that of all runs.
    atexit.unregister(cleanup_tmp_file)
    if hasattr(strategy, "_model"):
        strategy._model.owner = os.getpid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path in enumerate((os.devnull, out, err)):
        file = os.open(path, os.O_RDWR | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    main(["ansible-playbook", *arguments])


if __name__ == "__main__":
    loaded = load()
    for line in sys.stdin:
        if not (child := os.fork()):
            begin(loaded, **json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
