"""The list of those whom a node admits: one by which it would admit nobody never takes the place of one that is good."""

from __future__ import annotations

import json

import pytest
import yaml

from beowulf.process import ROOT, environment, output, tool

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_vars: {file: %s/roles/sshd/vars/main.yml}
    - ansible.builtin.copy:
        content: "{{ principals }}"
        dest: "{{ place }}"
        mode: "0644"
        validate: %s
"""


@pytest.mark.parametrize(
    ("principals", "good"),
    [
        ("admin\ncompute\n", True), ("mpi\n", True),
        ("", False), ("\n", False), ("admin\\ncompute\n", False), ("admin\n\n", False), ("a b\n", False),
    ],
)  # fmt: skip
def test_a_list_by_which_nobody_would_be_admitted_is_refused(tmp_path, principals, good):
    place = tmp_path / "admin"
    place.write_text("of before\n")
    tasks = yaml.safe_load((ROOT / "roles/sshd/tasks/trust.yml").read_text(encoding="utf-8"))
    tasks = [inner for task in tasks for inner in task.get("block", [task])]
    (copy,) = [task["ansible.builtin.copy"] for task in tasks if "/principals/" in task.get("ansible.builtin.copy", {}).get("dest", "")]
    (tmp_path / "play.yml").write_text(PLAY % (ROOT, copy["validate"]))
    variables = {
        "ansible_connection": "local", "ansible_python_interpreter": tool("python"), "ansible_become": False, "place": str(place),
        "principals": {"__ansible_unsafe": principals},
    }  # fmt: skip
    env = environment(ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.minimal", ANSIBLE_CACHE_PLUGIN="ansible.builtin.memory")
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    command = [tool("ansible-playbook"), "-i", "node,", str(tmp_path / "play.yml"), f"--extra-vars=@{tmp_path}/variables.json"]
    done = output(command, env=env, timeout=60)
    assert (done.returncode == 0) == good, done.stdout + done.stderr
    assert place.read_text() == (principals if good else "of before\n")
