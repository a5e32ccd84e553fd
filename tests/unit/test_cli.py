from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONTRACT = {
    *("deploy", "verify", "status", "drill", "rack.check", "rack.schema", "lab.up", "lab.down", "lab.shell", "registry.fill"),
    *("backup.create", "backup.restore", "backup.list"),
    *("ca.user", "ca.list", "ca.revoke", "ca.unrevoke", "ca.renew", "ca.rotate"),
    *("secrets.init", "secrets.show", "secrets.rotate"),
    *("ara.serve", "ara.stop", "ara.report", "test", "test.all", "test.lint", "test.unit", "test.cluster", "dev.lock", "dev.readmes"),
    *("mpi", "mpi.run", "mpi.check", "build", "bench", "lynis", "k3s.remove", "k3s.restore", "k3s.snapshot"),
}
"""What people may have in scripts: no task comes, goes or is renamed without this list."""


def test_the_tasks_are_those_of_the_contract(operator):
    shown = operator("--list").stdout
    # NAME (ALIAS OF THE GROUP)  what it does
    rows = re.findall(r"^  ([a-z][\w.]*)(?: \(([\w., ]+)\))?(?: {2,}.*|)$", shown, re.MULTILINE)
    assert {name for row in rows for name in row if name} == CONTRACT


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deploy", "--cluster", "labb"], "There is no cluster 'labb': inventory/labb.rack.yml is missing. Did you mean lab? There are:"),
        (["deploy", "--cluster", "../inventory/lab"], "There is no cluster '../inventory/lab'"),
        (["status", "--cluster", ""], "There is no cluster ''"),
        (["lab.shell", "nope"], "The cluster lab has no node 'nope'. It has: omega, psi"),
        (["backup.create", "--to", "/no/such/folder"], "--to /no/such/folder: this is no folder that you may write to."),
        (["backup.restore", "--from", "/no/such/folder"], "neither a folder of this machine nor a node. The nodes: omega, psi"),
        (["rack.check", "/no/such/file"], "There is no file /no/such/file."),
        (["deploy", "--limt", "x"], "No idea what '--limt' is!"),
        (["lab.shell"], "did not receive required positional arguments: 'node'"),
        (["no.such.task"], "No idea what 'no.such.task' is!"),
    ],
)
def test_mistakes_are_code_2_and_a_sentence(operator, arguments, words):
    result = operator(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_good_rack_file_is_code_0(operator):
    result = operator("rack.check")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("lab.rack.yml: good, 8 nodes\n")


def test_all_problems_of_a_rack_file_are_shown(operator, tmp_path):
    rack = tmp_path / "bad.rack.yml"
    rack.write_text("plugin: beowulf.cluster.rack\ncluster: x\ndomain: x.local\nnodes: {a: {type: computer}}\n")
    result = operator("rack.check", str(rack))
    assert result.returncode == 2
    assert "The rack file is refused, it has " in result.stderr
    assert "x.local" in result.stderr
    assert "computer" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_schema_is_json(operator):
    assert json.loads(operator("rack.schema").stdout)["$schema"]


def test_the_example_is_a_good_file_and_no_cluster(operator):
    assert operator("rack.check", "--file", str(ROOT / "inventory/example.rack.yml")).returncode == 0
    result = operator("lab.down", "--cluster", "example")
    assert result.returncode == 2
    assert "example.rack.yml says `cluster: home`, and a rack file is named after its cluster." in result.stderr


def test_help_is_not_a_check_run(operator):
    result = operator("deploy", "-h")
    assert result.returncode == 0
    assert "--limit" in result.stdout
