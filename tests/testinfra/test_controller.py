"""The deployer is a controller like the admin's machine."""

import json
import subprocess
from pathlib import Path

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


def test_caches_facts_in_redis_on_loopback_alone(host, rack):
    own = rack["rack_deployer"]["name"]
    host.check_output("redis-cli --scan --pattern %s | xargs --no-run-if-empty redis-cli del", f"*facts*{own}")
    answer = in_project(host, f"ansible {own} -m ansible.builtin.setup -a gather_subset=min")
    assert answer.rc == 0, answer.stdout + answer.stderr
    [key] = host.check_output("redis-cli --scan --pattern %s", f"*facts*{own}").splitlines()
    assert "ansible_nodename" in host.check_output("redis-cli get %s", key)
    listening = host.check_output("ss --listening --tcp --numeric --no-header sport = :6379").splitlines()
    assert {line.split()[3] for line in listening} <= {"127.0.0.1:6379", "[::1]:6379"}


def test_records_the_runs_that_are_made_there(host, rack):
    answer = in_project(host, "ansible-playbook playbooks/deployer.yml --tags=locate")
    assert answer.rc == 0, answer.stdout + answer.stderr
    api = "http://127.0.0.1:8137/api/v1/playbooks"
    [run] = json.loads(host.check_output(f"curl --silent --fail '{api}?limit=1&order=-id'"))["results"]
    assert (Path(run["path"]).name, run["status"]) == ("deployer.yml", "completed")
    labels = {label["name"] for label in json.loads(host.check_output(f"curl --silent --fail {api}/{run['id']}"))["labels"]}
    assert {f"cluster:{rack['rack_cluster']}", "tags:locate"} <= labels
    page = host.check_output(f"curl --silent --fail http://127.0.0.1:8137/playbooks/{run['id']}.html")
    assert "/srv/beowulf/playbooks/deployer.yml" in page
