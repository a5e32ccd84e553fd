"""The deployer can be lost: its backups are made by themselves, are whole, tell nothing to strangers, and are held elsewhere, too."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from beowulf import playbook
from beowulf.process import environment

testinfra_hosts = ["ansible://backup"]

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "/var/backups/cluster"


def as_deployed():
    """The environment in which a deploy runs Ansible: `verify` has it read plain inventories only."""
    return {name: value for name, value in environment(**playbook.strategy()).items() if name != "ANSIBLE_INVENTORY_ENABLED"}


def story(host):
    return json.loads(host.check_output(f"sudo cat {REPOSITORY}/backup.json"))


@pytest.fixture(scope="module")
def made(host, rack):
    """A backup, made as the timer has it made, of a file with a word that is nowhere else."""
    word = f"canary-{secrets.token_hex(16)}"
    path = f"/srv/beowulf/.beowulf/{rack['rack_cluster']}/{word[:15]}"
    host.check_output(f"sudo -u {rack['rack_ssh_user']} sh -c %s", f"umask 077; printf %s {word} > {path}")
    began = time.time()
    try:
        result = host.run("sudo systemctl start cluster-backup.service")
        journal = host.check_output("sudo journalctl --no-pager --lines=40 --unit=cluster-backup.service")
        assert result.rc == 0, journal
        # The file must be read out of the archive, not from where it was.
        host.check_output(f"sudo rm {path}")
        yield {"word": word, "path": path, "began": began, "journal": journal}
    finally:
        host.run(f"sudo rm -f {path}")


def test_begins_by_itself_every_day(host):
    host.check_output("systemctl is-enabled cluster-backup.timer")
    [timer] = json.loads(host.check_output("systemctl list-timers --output=json cluster-backup.timer"))
    following = timer["next"] / 1e6 - float(host.check_output("date +%s"))
    assert 0 < following <= 86400 + 600


@pytest.mark.disturbs("deploys")
def test_says_what_was_made_and_when(host, made):
    told = story(host)
    assert told["archive"] == told["archives"][-1]
    assert abs(datetime.fromisoformat(told["time"]).replace(tzinfo=UTC).timestamp() - made["began"]) < 120
    assert told["original"] > len(made["word"])


@pytest.mark.disturbs("deploys")
def test_a_file_comes_back_as_it_was(rack, made):
    command = [
        "ansible-playbook", "--inventory", f"inventory/{rack['rack_cluster']}.rack.yml", "tests/testinfra/playbooks/extract.yml",
        f"--extra-vars={json.dumps({'repository': REPOSITORY, 'wanted': made['path'], 'expected': made['word']})}",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, env=as_deployed())
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.disturbs("backup")
def test_loses_nothing_by_itself_and_restores_no_more_than_there_was(host, rack, tmp_path):
    """A lost repository is gone on with from a copy, a new one takes no older one's place, and newer files do not outlive a restore."""
    scratch = host.check_output("sudo mktemp -d /var/tmp/beowulf-backup-XXXXXX")
    extra = {"scratch": scratch, "relay": str(tmp_path), "__backup_work": f"{scratch}/work"}
    command = [
        "ansible-playbook", "--inventory", f"inventory/{rack['rack_cluster']}.rack.yml", "tests/testinfra/playbooks/backup_rounds.yml",
        f"--extra-vars={json.dumps(extra)}",
    ]  # fmt: skip
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600, env=as_deployed())
    finally:
        host.check_output("sudo rm -r %s", scratch)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.disturbs("deploys")
def test_tells_nothing_without_the_passphrase(host, made):
    """Neither what is in a file nor the name of it; a word that stands there in the open is found by the same search."""
    search = f"sudo grep --recursive --text --fixed-strings --files-with-matches %s {REPOSITORY} || :"
    assert host.check_output(search, story(host)["archive"]) == f"{REPOSITORY}/backup.json"
    for secret in (made["word"], Path(made["path"]).name):
        assert host.check_output(search, secret) == ""
    refused = host.run(f"echo wrong | sudo BORG_PASSPHRASE_FD=0 BORG_BASE_DIR=/tmp/borg-test borg list {REPOSITORY}")
    host.run("sudo rm -rf /tmp/borg-test")
    assert refused.rc == 2
    assert "is incorrect" in refused.stderr
    assert host.run(f"sudo -u nobody ls {REPOSITORY}").rc == 2, "strangers on the node may read it"


@pytest.mark.disturbs("deploys")
def test_others_hold_the_same(host, node, nodes, chosen, made):
    """Byte by byte, but for the locks that Borg leaves while it works."""
    sums = f"sudo sh -c 'cd {REPOSITORY} && find . -type f -not -name lock.\\* -exec sha256sum {{}} + | sort'"
    own = host.check_output(sums)
    assert "./backup.json" in own
    for name in nodes("backup_copy"):
        if name in chosen:
            assert node(name).check_output(sums) == own, name


@pytest.mark.disturbs("deploys")
def test_lists_what_there_is(host, rack, made):
    shown = host.check_output(
        "sudo -H -u %s bash -lc %s", host.ansible.get_variables()["rack_ssh_user"], "cd /srv/beowulf && invoke backup.list"
    )
    assert story(host)["archive"] in shown
    assert f"{rack['rack_deployer']['name']} " in shown
