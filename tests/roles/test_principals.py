"""The list of those whom a node admits: one by which it would admit nobody never takes the place of one that is good."""

from __future__ import annotations

import json

import pytest
import yaml

from beowulf.process import ROOT

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
def test_a_list_by_which_nobody_would_be_admitted_is_refused(tmp_path, ansible, principals, good):
    place = tmp_path / "admin"
    place.write_text("of before\n")
    tasks = yaml.safe_load((ROOT / "roles/sshd/tasks/trust.yml").read_text(encoding="utf-8"))
    tasks = [inner for task in tasks for inner in task.get("block", [task])]
    (copy,) = [task["ansible.builtin.copy"] for task in tasks if "/principals/" in task.get("ansible.builtin.copy", {}).get("dest", "")]
    variables = tmp_path / "variables.json"
    variables.write_text(json.dumps({"place": str(place), "principals": {"__ansible_unsafe": principals}}))
    done = ansible(tmp_path, PLAY % (ROOT, copy["validate"]), f"--extra-vars=@{variables}")
    assert (done.returncode == 0) == good, done.stdout + done.stderr
    assert place.read_text() == (principals if good else "of before\n")
