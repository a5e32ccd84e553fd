"""The deployer is a controller like the admin's machine."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from beowulf import recording
from beowulf.cluster import Cluster

testinfra_hosts = ["ansible://controller"]

ROOT = Path(__file__).resolve().parents[2]


def in_project(host, command):
    """What the user sees who logs in and gives a command in the project's folder."""
    user = host.ansible.get_variables()["rack_ssh_user"]
    return host.run("sudo -H -u %s bash -lc %s </dev/null", user, f"cd /srv/beowulf && {command}")


def test_reaches_every_node_with_its_own_key(host, chosen):
    """Strict host key checking is on, and the private key was made there."""
    answer = in_project(host, f"ansible {','.join(sorted(chosen))} -m ansible.builtin.command -a hostname")
    assert answer.rc == 0, answer.stdout + answer.stderr
    for name in chosen:
        assert f"{name} | CHANGED | rc=0 >>\n{name}\n" in answer.stdout


def test_has_a_commit_of_this_project(host):
    """The one that was deployed: part of the history of whoever asks, and nothing beside it."""
    assert host.check_output("git -C /srv/beowulf status --porcelain") == ""
    deployed = host.check_output("git -C /srv/beowulf rev-parse HEAD")
    history = subprocess.run(["git", "merge-base", "--is-ancestor", deployed, "HEAD"], cwd=ROOT, check=False, capture_output=True)
    assert history.returncode == 0, deployed


def ask_redis(host, *command):
    """What Redis says to the user of the controller; the password goes by the environment of the client, which no other user may read."""
    words = " ".join(shlex.quote(word) for word in command)
    return host.check_output("sh -c %s", f'REDISCLI_AUTH="$(cat /etc/beowulf/redis-password)" redis-cli {words}')


def test_caches_facts_in_redis(host, rack):
    own = rack["rack_deployer"]["name"]
    for key in ask_redis(host, "--scan", "--pattern", f"*facts*{own}").splitlines():
        ask_redis(host, "del", key)
    answer = in_project(host, f"ansible {own} -m ansible.builtin.setup -a gather_subset=min")
    assert answer.rc == 0, answer.stdout + answer.stderr
    assert "Redis does not serve" not in answer.stderr
    [key] = ask_redis(host, "--scan", "--pattern", f"*facts*{own}").splitlines()
    assert "ansible_nodename" in ask_redis(host, "get", key)


def test_a_wrong_password_of_redis_costs_a_warning(host, rack):
    """The run goes on, with facts in files."""
    own = rack["rack_deployer"]["name"]
    wrong = "f=$(mktemp); echo wrong > $f; export BEOWULF_REDIS_PASSWORD_FILE=$f BEOWULF_FACTS_FOLDER=$(mktemp -d)"
    answer = in_project(host, f"{wrong}; ansible {own} -m ansible.builtin.setup -a gather_subset=min; rm -r $f $BEOWULF_FACTS_FOLDER")
    assert answer.rc == 0, answer.stdout + answer.stderr
    assert answer.stderr.count("Redis does not serve the fact cache") == 1


@pytest.mark.xdist_group("recorded run")
def test_records_the_runs_that_are_made_there(host, rack):
    """In the ARA of the deployer, by the same way as every other controller."""
    server = recording.deployers(Cluster(os.environ["BEOWULF_CLUSTER"]))
    newest = max((run["id"] for run in server.get("/api/v1/playbooks?limit=1&order=-id")["results"]), default=0)
    answer = in_project(host, "ansible-playbook playbooks/deployer.yml --tags=locate")
    assert answer.rc == 0, answer.stdout + answer.stderr
    assert "recorded on this machine" not in answer.stderr
    # Another controller may record a run of its own meanwhile.
    runs = server.get("/api/v1/playbooks?limit=10&order=-id")["results"]
    [run] = [run for run in runs if run["id"] > newest and run["path"] == "/srv/beowulf/playbooks/deployer.yml"]
    assert run["status"] == "completed"
    labels = {label["name"] for label in server.get(f"/api/v1/playbooks/{run['id']}")["labels"]}
    assert {f"cluster:{rack['rack_cluster']}", "tags:locate"} <= labels


@pytest.mark.disturbs("deploys")
def test_a_run_goes_on_while_ara_is_down(host):
    """The controller's own server records it."""
    host.check_output("sudo systemctl stop nginx")
    try:
        answer = in_project(host, "ansible-playbook playbooks/deployer.yml --tags=locate")
    finally:
        host.check_output("sudo systemctl start nginx")
    assert answer.rc == 0, answer.stdout + answer.stderr
    assert " ".join(answer.stderr.split()).count("This run is recorded on this machine, not by ARA on the deployer") == 1


@pytest.mark.disturbs("deploys")
def test_renews_certificates_by_itself(host, chosen, hostvars):
    """The timer runs, and what it starts comes to its end in its sandbox."""
    assert host.check_output("systemctl show --property=ActiveState --value cluster-certificates.timer") == "active"
    if chosen != set(hostvars):
        pytest.skip("it asks every node, and some take no part")
    result = host.run("sudo systemctl start cluster-certificates.service")
    assert result.rc == 0, host.check_output("sudo journalctl --no-pager --lines=40 --unit=cluster-certificates.service")
