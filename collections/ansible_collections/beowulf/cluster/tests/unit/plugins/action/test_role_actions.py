"""The actions of roles, as Ansible runs them: on this machine, beside programs that stand for those of systemd and dpkg."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ansible_collections.beowulf.cluster.plugins.action import file_tree, service_state

COLLECTIONS = Path(file_tree.__file__).parents[5]
PLAY = """
- hosts: all
  gather_facts: false
  roles: [some]
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >>{log}
printf 'LoadState=loaded\\nActiveState=active\\nStateChangeTimestamp=%s\\nUnitFileState=enabled\\nNeedDaemonReload=no\\n' "$SINCE"
"""
DPKG = """#!/bin/sh
echo asked >>{log}
printf 'installed bash\\nconfig-files nano\\n'
"""


class Role:
    """A role `some` in a folder, and what it did."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.role, self.log = folder, folder / "roles" / "some", folder / "log"
        for program, text in (("systemctl", SYSTEMCTL), ("dpkg-query", DPKG)):
            path = self.write(folder / "bin" / program, text.format(log=self.log))
            path.chmod(0o755)

    @staticmethod
    def write(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def play(self, tasks: list[dict], *options: str, since: str = "Wed 2070-01-01 00:00:00.000000 UTC", code: int = 0) -> list[dict]:
        """Run the tasks; return their results."""
        shown = self.run(tasks, *options, since=since, code=code, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
        found = json.loads(shown[shown.index("{") :])
        return [task["hosts"]["node"] for task in found["plays"][0]["tasks"]]

    def effects(self, tasks: list[dict], *options: str, since: str) -> list[list[str]]:
        """Run the tasks; return what the summary of the run says that they did, or would do."""
        summary = self.folder / "summary.json"
        self.run(tasks, *options, since=since, code=0, ANSIBLE_STDOUT_CALLBACK="beowulf.cluster.progress",
                 BEOWULF_PROGRESS_SUMMARY=str(summary))  # fmt: skip
        return sorted(json.loads(summary.read_text())["effects"])

    def run(self, tasks: list[dict], *options: str, since: str, code: int, **environment: str) -> str:
        """Run the tasks; return what was shown."""
        self.write(self.role / "tasks" / "main.yml", json.dumps(tasks))
        self.write(self.folder / "play.yml", PLAY)
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "place": str(self.folder / "node")}
        own = {**environment, "ANSIBLE_ROLES_PATH": str(self.folder / "roles"), "SINCE": since,
               "ANSIBLE_COLLECTIONS_PATH": f"{COLLECTIONS}:{COLLECTIONS.parent}/.ansible/collections",
               "ANSIBLE_CONFIG": str(self.write(self.folder / "ansible.cfg", "")),
               "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}  # fmt: skip
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "node,", str(self.folder / "play.yml"), *options,
                   f"--extra-vars={json.dumps(variables)}"]  # fmt: skip
        done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def role(tmp_path):
    return Role(tmp_path)


def tree_of(role: Role) -> None:
    """A template and a program, in the role as on the node."""
    role.write(role.role / "templates" / f"{role.folder}/node/etc/some.conf.j2".lstrip("/"), "value {{ some_value }}\n")
    role.write(role.role / "files" / f"{role.folder}/node/bin/some".lstrip("/"), "#!/bin/sh\n").chmod(0o755)


def test_templates_and_files_of_the_role_are_installed_once(role):
    tree_of(role)
    tasks = [{"beowulf.cluster.file_tree": {}, "vars": {"some_value": 3}}]
    (first,), (second,) = role.play(tasks), role.play(tasks)
    node = role.folder / "node"
    assert (node / "etc" / "some.conf").read_text() == "value 3\n"
    assert os.access(node / "bin" / "some", os.X_OK)
    assert (sorted(first["paths"]), second["changed"]) == ([str(node / "bin" / "some"), str(node / "etc" / "some.conf")], False)
    assert "invocation" not in first


def test_a_path_that_nothing_is_known_of_is_refused(role):
    (result,) = role.play([{"beowulf.cluster.file_tree": {"files": {"/nowhere/x": {"mode": "0600"}}}}], code=2)
    assert "/nowhere/x is neither in templates/ nor in files/" in result["msg"]


def test_content_may_be_lines(role):
    role.play([{"beowulf.cluster.file_tree": {"files": {f"{role.folder}/x": {"content": ["one", "two"]}}}}])
    assert (role.folder / "x").read_text() == "one\ntwo\n"


def test_an_option_that_there_is_not_is_refused(role):
    (result,) = role.play([{"beowulf.cluster.file_tree": {"files": {"/nowhere/x": {"content": "", "moed": "0600"}}}}], code=2)
    assert "'moed'" in result["msg"]


def test_patterns_leave_the_rest_to_others(role):
    tree_of(role)
    (result,) = role.play([{"beowulf.cluster.file_tree": {"tree": ["*/bin/*"]}}])
    assert result["paths"] == [f"{role.folder}/node/bin/some"]


def test_a_check_says_of_the_service_what_the_run_would_do(role):
    tree_of(role)
    tasks = [
        {"beowulf.cluster.file_tree": {}, "vars": {"some_value": 3}},
        {"beowulf.cluster.service_state": {"name": "some", "reads": ["{{ place }}/etc"]}},
        {"beowulf.cluster.service_state": {"name": "other", "reads": ["/nowhere"]}},
    ]
    _files, some, other = role.play(tasks, "--check")
    assert (some["done"], other["done"]) == (["restart some"], [])
    assert not (role.folder / "node").exists()
    # What a check noted is gone with it.
    assert role.play(tasks[1:], "--check")[0]["done"] == []


def test_a_check_tells_the_same_files_and_services_as_the_run_after_it(role):
    tree_of(role)
    for name in ("old-1", "old-2", "gone"):
        role.write(role.folder / "node" / "etc" / name, "")
    # A service that was started when the files were as they are.
    since = datetime.now(UTC).strftime("%a %Y-%m-%d %H:%M:%S.%f UTC")
    role.write(role.role / "handlers" / "main.yml", json.dumps([
        {"name": "Look at it", "ansible.builtin.command": "/bin/true", "changed_when": False, "listen": "Reload it"},
        {"name": "Load it", "ansible.builtin.command": {"cmd": "/bin/true", "removes": "/bin/sh"}, "listen": "Reload it"},
        {"name": "Reload it", "ansible.builtin.systemd_service": {"name": "slow", "state": "reloaded"}},
    ]))  # fmt: skip
    tasks = [
        {"beowulf.cluster.file_tree": {"purge": ["{{ place }}/etc/old-*"], "files": {f"{role.folder}/node/etc/gone": {"state": "absent"}}},
         "vars": {"some_value": 3}},
        {"beowulf.cluster.service_state": {"name": "some", "reads": ["{{ place }}/etc"]}},
        {"beowulf.cluster.service_state": {"name": "other", "reads": ["{{ place }}/bin/others"]}},
        {"beowulf.cluster.service_state": {"name": "slow", "reads": ["{{ place }}/etc"], "restart": False}, "notify": "Reload it"},
    ]  # fmt: skip
    told, done, again = (role.effects(tasks, *options, since=since) for options in (["--check"], [], ["--check"]))
    place = f"{role.folder}/node"
    files = [f"{place}/bin/some", *(f"{place}/etc/{name}" for name in ("gone", "old-1", "old-2", "some.conf"))]
    services = [["node", "reload", "slow.service"], ["node", "restart", "some.service"]]
    assert told == sorted([*(["node", "change", path] for path in files), *services, ["node", "do", "some : Load it"]])
    assert done == told
    # The service has not been started again, as systemctl here is not systemd's; its files are done.
    assert [effect for effect in again if effect[1] == "change"] == []


def test_systemd_reads_a_changed_unit_again_even_if_nothing_is_restarted():
    unit = {"active": True, "unread": [], "enabled": True, "found": True, "reload": True}
    assert service_state.needed(unit, [], enabled=True, restart=True) == "reload"
    assert service_state.needed({**unit, "reload": False}, [], enabled=True, restart=True) == ""


@pytest.mark.parametrize(
    ("name", "path", "changes"),
    [
        ("some", "some.service", True),
        ("some.service", "some.service.d/more.conf", True),
        ("some.timer", "some.timer", True),
        # What a timer starts is not restarted: systemd has to read it.
        ("some.timer", "some.service", True),
        ("some", "some.timer", False),
        ("some.timer", "other.service", False),
    ],
)
def test_a_check_knows_which_changed_units_systemd_has_to_read(name, path, changes):
    assert service_state.changes_unit(name, [f"/etc/systemd/system/{path}"]) == changes
    assert not service_state.changes_unit(name, [f"/etc/some/{path}"])


def test_a_service_with_a_newer_file_is_restarted_or_told(role):
    role.write(role.folder / "node" / "etc" / "some.conf", "")
    tasks = [{"beowulf.cluster.service_state": {"name": "some", "reads": ["{{ place }}/etc"], "restart": False}}]
    (old,) = role.play(tasks, since="Sat 2020-11-21 15:40:43.159547 UTC")
    assert (old["changed"], old["unread"], old["done"]) == (True, [f"{role.folder}/node/etc/some.conf"], [])
    assert not role.play(tasks)[0]["changed"]


def test_a_node_is_asked_once_for_its_packages(role):
    tasks = [{"beowulf.cluster.packages": {"name": ["bash"]}}, {"beowulf.cluster.packages": {"name": "bash"}}]
    assert [result["missing"] for result in role.play(tasks)] == [[], []]
    assert role.log.read_text().splitlines() == ["asked"]


@pytest.mark.parametrize(
    ("unit", "pending", "needed"),
    [
        ({"active": False}, [], "start"),
        ({"unread": ["/etc/x"]}, [], "restart"),
        ({}, ["/etc/x"], "restart"),
        ({"enabled": False}, [], "enable"),
        ({"active": False, "found": False, "enabled": False}, [], "start"),
        ({}, [], ""),
    ],
)
def test_what_a_unit_needs(unit, pending, needed):
    state = {"active": True, "enabled": True, "found": True, "unread": [], **unit}
    assert service_state.needed(state, pending, enabled=True, restart=True) == needed
