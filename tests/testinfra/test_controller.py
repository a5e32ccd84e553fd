"""The deployer is a controller like the admin's machine."""

import json

testinfra_hosts = ["ansible://controller"]


def test_reaches_every_node_with_its_own_key(host, rack):
    """Strict host key checking is on, and the private key was made there."""
    answer = host.run("bash -lc 'cd /srv/beowulf && ansible all -m ansible.builtin.command -a hostname'")
    assert answer.rc == 0, answer.stdout + answer.stderr
    for node in rack["rack_nodes"]:
        assert f"{node['name']} | CHANGED | rc=0 >>\n{node['name']}\n" in answer.stdout


def test_has_the_commit_that_was_deployed(host):
    assert host.check_output("git -C /srv/beowulf status --porcelain") == ""
    assert host.run("git -C /srv/beowulf rev-parse HEAD").rc == 0


def test_caches_facts_in_redis(host):
    host.check_output("redis-cli set beowulf:test here && redis-cli del beowulf:test")
    listening = host.check_output("ss --listening --tcp --numeric --no-header sport = :6379")
    assert "127.0.0.1:6379" in listening
    assert "0.0.0.0:6379" not in listening
    assert "10." not in listening


def test_shows_recorded_runs(host):
    answer = json.loads(host.check_output("curl --silent --fail http://127.0.0.1:8137/api/"))
    assert answer["kind"] == "ara" if "kind" in answer else "version" in answer
    assert host.run("curl --silent --fail --output /dev/null http://127.0.0.1:8137/").rc == 0
