"""Servers of a pair are restarted one after the other: where the first does not come back, the others are left alone."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
import yaml

from beowulf import deploy
from beowulf.process import ROOT, environment, output, tool

# systemctl, which notes whom it restarts; the service of a node that is broken does not start.
SYSTEMCTL = """#!/bin/sh
case $* in
  *restart*) echo "$NODE" >>{folder}/restarted; test "$NODE" != "$BROKEN" ;;
  *show*) echo ActiveState=active; echo LoadState=loaded ;;
esac
"""
PLAY = """
- hosts: all
  gather_facts: false
  roles: ["{role}"]
  environment:
    NODE: "{{{{ inventory_hostname }}}}"
    BROKEN: "{broken}"
    PATH: "{folder}:{{{{ lookup('ansible.builtin.env', 'PATH') }}}}"
"""
NODES = ["alpha", "beta", "gamma"]
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": tool("python"), "ansible_become": False}


@pytest.fixture
def restart(tmp_path):
    """Notify a handler of a role on three nodes; return the exit code, what was said, and who was restarted, in this order."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(folder=tmp_path))
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {node: {} for node in NODES}, "vars": LOCAL}}))

    def one(role: str, handler: str, broken: str, **variables: object) -> tuple[int, str, list[str]]:
        # Its handlers and what they include, without the rest of the role, and without the seconds that daemons take.
        shutil.copytree(ROOT / "roles" / role / "handlers", tmp_path / role / "handlers")
        (tmp_path / role / "tasks").mkdir()
        (tmp_path / role / "tasks" / "main.yml").write_text(f"- command: 'true'\n  notify: {handler}\n")
        tasks = (ROOT / "roles" / role / "tasks" / "restart.yml").read_text()
        (tmp_path / role / "tasks" / "restart.yml").write_text(
            tasks.replace("seconds: 9", "seconds: 0").replace("retries: 20", "retries: 1")
        )
        (tmp_path / "play.yml").write_text(PLAY.format(role=role, broken=broken, folder=tmp_path))
        env = environment(**deploy.strategy(), ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal", ANSIBLE_NOCOLOR="1",
                          ANSIBLE_CACHE_PLUGIN="ansible.builtin.memory", ANSIBLE_ROLES_PATH=str(tmp_path),
                          ANSIBLE_INVENTORY_ENABLED="ansible.builtin.yaml")  # fmt: skip
        command = [tool("ansible-playbook"), "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")]
        result = output([*command, f"--extra-vars={json.dumps(variables)}"], env=env, timeout=120)
        noted = tmp_path / "restarted"
        return result.returncode, " ".join((result.stdout + result.stderr).split()), noted.read_text().split() if noted.exists() else []

    return one


KEA = {"__dhcp_ask": "print('hot-standby')", "__dhcp_serving": ["hot-standby"]}
VIP = {"vip_address": "10.77.0.5"}
# Kea starts, and does not serve.
MUTE = KEA | {"__dhcp_ask": "import os; print('silent' if os.environ['NODE'] == 'alpha' else 'hot-standby')"}


@pytest.mark.parametrize(
    ("role", "handler", "broken", "variables"),
    [("dhcp", "Restart Kea", "alpha", KEA), ("dhcp", "Restart Kea", "", MUTE), ("vip", "Restart keepalived", "alpha", VIP)],
)
def test_where_one_does_not_come_back_the_others_are_left_as_they_are(restart, role, handler, broken, variables):
    code, said, restarted = restart(role, handler, broken, **variables)
    assert code, said
    assert restarted == ["alpha"], said
    for node in ("beta", "gamma"):
        assert f"{node} is left as it was" in said
    assert "alpha did not come back" in said


@pytest.mark.parametrize(("role", "handler", "variables"), [("dhcp", "Restart Kea", KEA), ("vip", "Restart keepalived", VIP)])
def test_otherwise_each_has_its_turn(restart, role, handler, variables):
    code, said, restarted = restart(role, handler, "", **variables)
    assert code == 0, said
    assert restarted == NODES


@pytest.mark.parametrize(
    ("role", "file", "place"),
    [("dhcp", "certificate", "/etc/kea/kea-dhcp4.conf"), ("vip", "main", "/etc/systemd/system/keepalived.service.d/beowulf.conf")],
)
def test_the_one_that_was_left_alone_is_restarted_by_the_next_deploy(tmp_path, role, file, place):
    """Its configuration is in place by then, and no task changes it: what tells is that the daemon is older."""
    tasks = yaml.safe_load((ROOT / "roles" / role / "tasks" / f"{file}.yml").read_text())
    command = next(task for task in tasks if task.get("register") == f"__{role}_newer")["ansible.builtin.shell"]["cmd"]
    configuration = tmp_path / "daemon.conf"
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\ncat {tmp_path}/started\n")
    (tmp_path / "systemctl").chmod(0o755)
    command = command.replace(place, str(configuration)).replace("{{ dhcp_tls_folder }}", str(tmp_path / "none"))

    def newer(started: float) -> str:
        (tmp_path / "started").write_text(time.strftime("%a %Y-%m-%d %H:%M:%S.000000 UTC", time.gmtime(started)))
        env = environment(PATH=f"{tmp_path}:{os.defpath}")
        return output(["sh", "-c", command], env=env).stdout

    configuration.write_text("")
    # As the copy of a file that was made before.
    os.utime(configuration, (0, 0))
    assert newer(time.time() - 60) == f"{configuration}\n"
    assert newer(time.time() + 60) == ""
