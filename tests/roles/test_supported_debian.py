"""Which releases of Debian are refused, and that a node is refused before anything is changed on it."""

from __future__ import annotations

import pytest

from beowulf.cluster import Cluster
from beowulf.process import tool

PLAY = """
- hosts: {node}
  connection: local
  gather_facts: false
  become: false
  roles: [{role}]
"""


@pytest.fixture
def said(tmp_path, ansible):
    """Run a role on this machine as if it were a node with a release of Debian; return what was done and what was said."""

    def run(node, role, release):
        facts = {
            "os_family": "Debian", "distribution": "Debian", "distribution_version": f"{release}.5", "distribution_major_version": release,
            "userspace_bits": "64",
        }  # fmt: skip
        # Which interface it is follows from facts that this machine does not have.
        variables = {"dhcp_interface": "lan0", "ansible_facts": facts, "ansible_python_interpreter": tool("python")}
        play = PLAY.format(node=node, role=role)
        result = ansible(tmp_path, play, "--check", inventory=Cluster("lab").path, variables=variables)
        assert result.returncode
        return " ".join(result.stdout.split())

    return run


@pytest.mark.parametrize(("node", "role", "release"), [("alpha", "base", "12"), ("alpha", "dhcp", "12"), ("gamma", "base", "11")])
def test_a_release_that_is_too_old_is_refused_before_anything_is_changed(said, node, role, release):
    text = said(node, role, release)
    assert f"{node} runs Debian {release}.5" in text
    needed = int(release) + 1
    assert f"Debian {needed}" in text
    assert "changed=0" in text
    # The check of the variables, and nothing of the role's own before it.
    assert "ok=1 " in text
