"""Redis on the deployer: for those on this machine who know its password, and for no one else."""

import shlex

import pytest

testinfra_hosts = ["ansible://redis"]
PASSWORD_FILE = "/etc/beowulf/redis-password"


def talk(host, *command, password=f'"$(cat {PASSWORD_FILE})"'):
    """What Redis says; the shell reads the password where only its user may."""
    words = " ".join(shlex.quote(word) for word in command)
    return host.run("sh -c %s", f"REDISCLI_AUTH={password} redis-cli {words} 2>&1").stdout.strip()


def test_it_serves_those_who_know_the_password(host):
    assert talk(host, "ping") == "PONG"
    assert talk(host, "set", "test:redis", "1", "EX", "5") == "OK"
    assert talk(host, "get", "test:redis") == "1"


@pytest.mark.parametrize("password", ["", "wrong"])
def test_it_says_nothing_without_the_password(host, password):
    for command in (("ping",), ("get", "x"), ("dbsize",), ("info",)):
        assert "NOAUTH" in talk(host, *command, password=password)


@pytest.mark.parametrize(
    "command", ["flushall", "config get *", "keys *", "shutdown", "acl list", "replicaof 192.0.2.1 6379", "module list"]
)
def test_the_password_does_not_make_an_administrator(host, command):
    assert "NOPERM" in talk(host, *command.split())
    assert talk(host, "ping") == "PONG"


def test_nobody_else_may_read_the_password(host, rack):
    file = host.file(PASSWORD_FILE)
    assert (file.user, file.mode) == (rack["rack_ssh_user"], 0o600)
    assert host.run("sudo -u nobody cat %s", PASSWORD_FILE).rc != 0
    assert host.run("sudo -u nobody cat /etc/redis/cluster.conf").rc != 0


def test_it_is_not_there_for_other_nodes(host, rack, client):
    listening = host.check_output("ss --listening --tcp --numeric --no-header sport = :6379").splitlines()
    assert {line.split()[3] for line in listening} == {"127.0.0.1:6379"}
    knock = f"exec 3<>/dev/tcp/{rack['rack_deployer']['address']}/6379"
    assert client.run("timeout 3 bash -c %s", knock).rc != 0
