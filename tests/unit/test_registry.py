"""The registry of machines that the LAN has seen: filled as by the deployer, in a real Redis, and read as by the inventory plugin."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time

import pytest

from beowulf import lock, registry
from beowulf.cluster import Cluster
from beowulf.errors import Failure, Refusal


def kea(*leases, result=0):
    return json.dumps({"result": result, "arguments": {"leases": leases}})


def lease(mac, address, seen, state=0, hostname="stranger."):
    return {"hw-address": mac, "ip-address": address, "cltt": seen, "state": state, "hostname": hostname, "valid-lft": 300}


OWN = lease("b8:27:eb:00:00:21", "10.77.0.21", 1_700_000_000, hostname="gamma.")
STRANGER = "02:00:00:00:00:01"


@pytest.fixture
def redis(tmp_path):
    """A Redis of the test's own, with a password, and with the rights that the deployer's gives."""
    from redis import Redis, RedisError

    program = shutil.which("redis-server")
    assert program, "redis-server is needed: apt-get install redis-server"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rights = "default on >hunter2 ~* &* +@all -@admin -@dangerous +info"
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path), "--user", *rights.split()]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = Redis(port=port, password="hunter2")
    try:
        for _ in range(100):
            try:
                client.ping()
                break
            except RedisError:
                time.sleep(0.05)
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(10)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The cluster, whose DHCP servers answer what stands in a file of their name."""
    cluster = Cluster("lab")
    (tmp_path / "ssh").write_text('#!/bin/sh\nfor word; do case $word in alpha|beta) exec cat "$0.$word";; esac; done; exit 255\n')
    (tmp_path / "ssh").chmod(0o755)
    # Its lock is none that somebody has who works on the real one.
    monkeypatch.setattr(Cluster, "state", tmp_path / "state")
    monkeypatch.setattr(cluster, "ssh", lambda node: [str(tmp_path / "ssh"), node])
    monkeypatch.setenv("BEOWULF_REGISTRY_PASSWORD", "hunter2")

    def answers(**texts):
        for node, text in texts.items():
            (tmp_path / f"ssh.{node}").write_text(text)

    answers(alpha="", beta="")
    cluster.answers = answers
    return cluster


def discovered(cluster, redis):
    """What the inventory plugin makes of it."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils import rack_registry

    url = f"redis://127.0.0.1:{redis.connection_pool.connection_kwargs['port']}/0"
    cluster.rack = cluster.rack.model_copy(update={"registry": url})
    registry.fill(cluster)
    found, wrong = rack_registry.discovered(cluster.rack, rack_registry.fetch_leases(url, "lab", "hunter2"))
    assert wrong == 0
    return found


def test_a_lease_of_an_unknown_machine_gets_to_the_inventory_and_goes_again(lab, redis, capsys):
    lab.answers(alpha=kea(OWN, lease(STRANGER, "10.77.0.200", 1_700_000_000)), beta=kea(lease(STRANGER, "10.77.0.201", 1_700_000_600)))
    [(name, variables)] = discovered(lab, redis).items()
    assert name == "mac-02-00-00-00-00-01"
    # Of the two servers' words the newer one.
    assert (variables["ansible_host"], variables["discovered_seen"], variables["discovered_hostname"]) == (
        "10.77.0.201",
        1_700_000_600,
        "stranger",
    )
    assert "1 machine that the rack file does not know" in capsys.readouterr().out
    assert 0 < redis.ttl("beowulf:lab:leases") <= registry.KEPT
    # One server suffices; what it has reclaimed, or a client has declined, is no lease.
    lab.answers(alpha="", beta=kea(lease(STRANGER, "10.77.0.201", 1_700_000_600, state=2)))
    assert discovered(lab, redis) == {}
    lab.answers(beta=kea(result=3))
    assert discovered(lab, redis) == {}


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", '{"result": 1, "text": "no such command"}', '{"result": 0, "arguments": {"leases": [1]}}']
)
def test_what_was_there_stays_while_no_server_answers(lab, redis, text):
    lab.answers(beta=kea(lease(STRANGER, "10.77.0.200", 1_700_000_000)))
    assert discovered(lab, redis)
    lab.answers(beta=text)
    with pytest.raises(Failure, match="Neither alpha nor beta says"):
        discovered(lab, redis)
    assert redis.exists("beowulf:lab:leases")


def test_it_waits_for_the_next_time_while_somebody_changes_the_cluster(lab, redis, tmp_path, monkeypatch, capsys):
    """Servers that are restarted just now would be called dead; and no timer stands in the way of a person's deploy."""
    lab.answers(beta=kea(lease(STRANGER, "10.77.0.200", 1_700_000_000)))
    assert discovered(lab, redis)
    lab.answers(beta="")
    who = {"user": "ada", "host": "desk", "task": "deploy", "since": "2026", "process": 7}
    (tmp_path / "ssh").write_text(f"#!/bin/sh\necho '{json.dumps(who)}'; exit {lock.TAKEN}\n")
    assert discovered(lab, redis), "it changed the registry"
    assert "refused, ada@desk runs deploy since 2026" in capsys.readouterr().out


def test_a_rack_without_a_registry_is_refused(lab):
    with pytest.raises(Refusal, match=r"lab\.rack\.yml names no registry") as refused:
        registry.fill(lab)
    assert refused.value.code == 2


def test_a_registry_that_is_away_is_told(lab, redis):
    lab.answers(beta=kea())
    redis.connection_pool.connection_kwargs["port"] = 9
    with pytest.raises(Failure, match="does not take them"):
        discovered(lab, redis)


@pytest.mark.parametrize("part", ["hw-address", "ip-address", "hostname", "cltt", "state"])
@pytest.mark.parametrize("value", [None, [], {}, "\x1b[2J", 7, "absent"])
def test_what_a_server_makes_up_is_no_error(part, value):
    wrong = lease(STRANGER, "10.77.0.200", 1_700_000_000) | {part: value}
    if value == "absent":
        del wrong[part]
    found = registry.strangers(registry.leases(kea(OWN, wrong)), [OWN["hw-address"]])
    assert set(found) <= {STRANGER, "\x1b[2j"}
    assert registry.strangers(registry.leases(kea(OWN)), []).keys() == {OWN["hw-address"]}
