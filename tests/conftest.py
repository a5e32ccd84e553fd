from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[1]
# Before anything imports the collection: what Python's own loader has begun, Ansible's cannot go on with.
if not any(type(finder).__name__ == "_AnsibleCollectionFinder" for finder in sys.meta_path):
    init_plugin_loader([str(ROOT / "collections")])

from beowulf import cluster, first_contact, playbook  # noqa: E402
from beowulf.process import environment, tool  # noqa: E402

# As a deploy has it, and nothing of it is recorded or kept.
SETTINGS = {
    **playbook.strategy(), "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.minimal", "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.memory",
    "ANSIBLE_INVENTORY_ENABLED": "beowulf.cluster.rack,ansible.builtin.host_list,ansible.builtin.yaml", "ANSIBLE_NOCOLOR": "1",
    "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_SHOW_CUSTOM_STATS": "true",
}  # fmt: skip
PATIENCE = 600
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": tool("python"), "ansible_become": False}


class Ansible:
    """A process that runs ansible-playbook again and again, with the same settings of Ansible's: warm_ansible.py."""

    def __init__(self, **settings: str) -> None:
        self.env = environment(**SETTINGS | settings)
        self.start()

    def start(self) -> None:
        program = [sys.executable, str(Path(__file__).parent / "support" / "warm_ansible.py")]
        self.process = subprocess.Popen(
            program, cwd=ROOT, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(self, folder: Path, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        out, err = folder / "stdout", folder / "stderr"
        for path in (out, err):
            path.write_text("")
        request = {"arguments": arguments, "env": {**self.env, **env}, "cwd": str(cwd), "out": str(out), "err": str(err)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = self.process.stdout.readline() if select.select([self.process.stdout], [], [], PATIENCE)[0] else ""
        if not code:
            # The next run begins anew.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.start()
            pytest.fail(f"it did not end in {PATIENCE} s:\n{out.read_text()}{err.read_text()}")
        return subprocess.CompletedProcess(arguments, int(code), out.read_text(), err.read_text())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="session")
def ansible():
    """Run plays on this machine, which stands for all hosts, with the project's roles; return what came of it.

    `options` are those of ansible-playbook, `variables` its extra variables, `settings` of its environment. Modules run in a Python that
    is there before: what they are to have in their environment, the play says (`environment`).
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def started(settings: frozenset[tuple[str, str]]) -> Ansible:
            one = Ansible(**dict(settings))
            stack.callback(one.end)
            return one

        def run(folder: Path, plays: str, *options: str, hosts: Mapping[str, Mapping] | Sequence[str] = ("localhost",),
                inventory: Path | None = None, variables: Mapping | None = None, cwd: Path = ROOT,
                **settings: str) -> subprocess.CompletedProcess[str]:  # fmt: skip
            known = hosts if isinstance(hosts, Mapping) else {name: {} for name in hosts}
            (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": known, "vars": LOCAL}}))
            (folder / "play.yml").write_text(plays)
            arguments = [f"--inventory={inventory or folder / 'hosts.yml'}", f"--extra-vars={json.dumps(variables or {})}", *options]
            own = frozenset((name, text) for name, text in settings.items() if name.startswith("ANSIBLE_"))
            return started(own).run(folder, [*arguments, str(folder / "play.yml")], cwd, settings)

        yield run


@pytest.fixture(scope="session")
def load():
    """Load a program that nodes have, as a module; the modules beside it are found, as when it is run."""

    def one(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
        # A dataclass looks for its module there.
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(path.parent)
            spec.loader.exec_module(module)
        return module

    return one


@pytest.fixture
def operator():
    """Run a task as a user does, and return what came of it."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; sys.path.insert(0, sys.argv[1]); from beowulf.__main__ import main; main(sys.argv[2:])"
        command = [sys.executable, "-P", "-c", code, str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | env)

    return run


@pytest.fixture
def boards(tmp_path, monkeypatch):
    """The folder of a project with the rack file of real machines, inventory/home.rack.yml, and nothing else in it."""
    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory/example.rack.yml", tmp_path / "inventory/home.rack.yml")
    monkeypatch.setattr(cluster, "ROOT", tmp_path)
    monkeypatch.setattr(cluster, "INVENTORY", tmp_path / "inventory")
    monkeypatch.setattr(first_contact, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def home(boards):
    """A cluster of real machines."""
    return cluster.Cluster("home")
