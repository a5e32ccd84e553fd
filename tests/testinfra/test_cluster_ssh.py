"""The account that runs parallel programs goes from node to node without a prompt, and only where it should."""

from __future__ import annotations

testinfra_hosts = ["ansible://mpi"]
KEY = "/etc/ssh/cluster/users/mpi/id_ed25519"


def as_user(host, command):
    # testinfra takes 255, with which ssh fails, for a failure of its own connection.
    return host.run("timeout 20 sudo -u mpi -H sh -c %s </dev/null || exit 1", command)


def peers(host):
    return [node for node in host.ansible.get_variables()["rack_mpi_hosts"] if node["name"] != host.check_output("hostname")]


def test_every_name_of_every_peer_is_reached_without_a_prompt(host):
    for peer in peers(host):
        for name in (peer["name"], peer["fqdn"], peer["address"]):
            result = as_user(host, f"ssh {name} hostname")
            assert (result.rc, result.stdout.strip()) == (0, peer["name"]), result.stderr


def test_an_unknown_host_key_is_refused(host):
    name = peers(host)[0]["name"]
    result = as_user(host, f"ssh -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile=/dev/null {name} hostname")
    assert result.rc == 1
    assert "Host key verification failed" in result.stderr


def test_an_unknown_user_key_is_refused(host):
    name = peers(host)[0]["name"]
    result = as_user(
        host,
        "key=$(mktemp -u) && trap 'rm -f $key $key.pub' EXIT && ssh-keygen -q -t ed25519 -N '' -f $key"
        f" && ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityAgent=none -i $key {name} hostname",
    )
    assert result.rc == 1
    assert "Permission denied" in result.stderr


def test_no_node_has_the_private_key_of_another(host):
    own = as_user(host, f"ssh-keygen -y -f {KEY}").stdout.split()[:2]
    assert own[0] == "ssh-ed25519"
    for peer in peers(host):
        theirs = as_user(host, f"ssh {peer['name']} ssh-keygen -y -f {KEY}").stdout.split()[:2]
        assert theirs[0] == "ssh-ed25519"
        assert theirs[1] != own[1]


def test_the_account_reads_its_key_and_changes_nothing_there(host):
    assert as_user(host, f"test -r {KEY} && cat {KEY}-cert.pub").rc == 0
    folder = KEY.rpartition("/")[0]
    for command in (f"echo x >>{KEY}", f"rm -f {KEY}", f"mv {KEY} {KEY}.old", f"echo x >{KEY}-cert.pub", f"ln -s /etc {folder}/link",
                    f"mv {folder} {folder}.old", f"chmod 0600 {KEY}", f"mkfifo {folder}/fifo"):  # fmt: skip
        assert as_user(host, command).rc != 0, command
    assert as_user(host, f"ssh {peers(host)[0]['name']} true").rc == 0


def test_another_account_does_not_read_the_key(host):
    assert host.run("sudo -u nobody cat %s || exit 1", KEY).rc == 1
