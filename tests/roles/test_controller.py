"""The project goes to the deployer by git, and the rack file by itself when nobody committed it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from beowulf.process import environment

ROOT = Path(__file__).resolve().parents[2]
RACK = "inventory/home.rack.yml"
PLAY = """
- hosts: all
  gather_facts: false
  environment: {PATH: "%(path)s"}
  vars:
    controller_folder: %(there)s
    controller_cluster: home
    controller_user: admin
    controller_rack_file: %(here)s/inventory/home.rack.yml
  roles: ["%(role)s"]
"""


class Project:
    """A clone of an admin's, and the place of the deployer's; `ssh` between them is a shell."""

    def __init__(self, folder: Path, ansible: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self.here, self.there, self.ansible = folder / "here", folder / "there", ansible
        for part in ("playbooks", "inventory"):
            (self.here / part).mkdir(parents=True)
        self.there.mkdir()
        (self.here / "inventory/lab.rack.yml").touch()
        role = folder / "roles/probe"
        path = f"{folder}/bin:{environment()['PATH']}"
        self.play = PLAY % {"there": self.there, "here": self.here, "role": role, "path": path}
        (self.here / "playbooks/play.yml").write_text(self.play)
        (role / "tasks").mkdir(parents=True)
        for part in ("defaults", "vars"):
            (role / part).symlink_to(ROOT / "roles/controller" / part)
        (role / "tasks/main.yml").symlink_to(ROOT / "roles/controller/tasks/project.yml")
        (folder / "bin").mkdir()
        (folder / "bin/ssh").write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
        (folder / "bin/ssh").chmod(0o755)
        self.git("init", "--quiet")
        self.commit("inventory", "playbooks")

    def git(self, *arguments, folder=None):
        who = ["-c", "user.name=ada", "-c", "user.email=ada@home.internal"]
        run = subprocess.run(["git", *who, *arguments], cwd=folder or self.here, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    def commit(self, *paths):
        self.git("add", *paths)
        self.git("commit", "--quiet", "--message=x")

    def rack(self, text):
        (self.here / RACK).write_text(text)

    def bring(self, *options):
        """Run the tasks; return how many of them changed something, and what they note."""
        result = self.ansible(self.here / "playbooks", self.play, *options, hosts=["psi"], ANSIBLE_STDOUT_CALLBACK="ansible.builtin.json")
        assert result.returncode == 0, result.stdout + result.stderr
        said = json.loads(result.stdout[result.stdout.index("{") :])
        return said["stats"]["psi"]["changed"], said["global_custom_stats"].get("notes", [])

    @property
    def arrived(self):
        """What the rack file there says; nothing else there may differ from a commit."""
        assert self.git("status", "--porcelain", folder=self.there) == ""
        return (self.there / RACK).read_text()


@pytest.fixture
def project(tmp_path, ansible):
    return Project(tmp_path, ansible)


def test_a_rack_file_that_is_in_no_commit_is_copied_until_a_commit_has_it(project):
    project.rack("one")
    assert project.bring()[0] > 0
    assert project.arrived == "one"
    assert project.bring() == (0, [])
    project.rack("two")
    project.bring()
    assert project.arrived == "two"
    assert [path.read_text() for path in (project.there / "inventory").iterdir() if path.name.endswith("~")] == ["one"]
    project.rack("three")
    project.commit(RACK)
    project.bring()
    assert project.arrived == "three"


def test_a_change_that_is_not_committed_is_noted_and_not_copied(project):
    project.rack("one")
    project.commit(RACK)
    assert project.bring()[1] == []
    project.rack("two")
    changed, notes = project.bring()
    assert (changed, project.arrived) == (0, "one")
    assert notes == [
        "psi has inventory/home.rack.yml as it was committed, and this run goes by one that was changed since: commit it, and deploy again."
    ]


def test_a_check_says_that_a_commit_would_go_there_and_takes_none(project):
    project.rack("one")
    project.commit(RACK)
    assert project.bring("--check")[0] > 0
    assert list(project.there.iterdir()) == []
    project.bring()
    assert project.bring("--check")[0] == 0
    before = project.git("rev-parse", "HEAD", folder=project.there)
    project.git("commit", "--quiet", "--allow-empty", "--message=y")
    assert project.bring("--check")[0] == 1
    assert project.git("rev-parse", "HEAD", folder=project.there) == before
