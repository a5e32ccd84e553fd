"""The controller on the deployer opens the vault of the cluster by itself, and nobody else does."""

import os

from beowulf.cluster import Cluster
from beowulf.secrets import store_of

testinfra_hosts = ["ansible://controller"]


def as_user(host, command):
    """Run a command as the user who has the tasks there, as after a login, without a terminal."""
    return host.run("sudo -H -u %s bash -lc %s </dev/null", host.ansible.get_variables()["rack_ssh_user"], command)


def entry(rack):
    return f"beowulf/{rack['rack_cluster']}/vault"


def test_the_user_of_the_controller_has_the_password(host, rack):
    """Without a terminal and without a passphrase, as in a deploy that nobody watches."""
    store = store_of(Cluster(os.environ["BEOWULF_CLUSTER"]))
    shown = as_user(host, f"pass show {entry(rack)}")
    assert shown.rc == 0, shown.stderr
    # Not as an assertion about the values: pytest would print them.
    same = shown.stdout.strip() == store.password()
    assert same, "it is another password than that of this controller"


def test_nobody_else_may_read_it(host, rack):
    """Neither the encrypted password, nor the key, nor the vault."""
    user = rack["rack_ssh_user"]
    folder = f"/srv/beowulf/.beowulf/{rack['rack_cluster']}"
    paths = [f"~{user}/.password-store/{entry(rack)}.gpg", f"~{user}/.gnupg/private-keys-v1.d/*.key", f"{folder}/secrets.yml"]
    for path in paths:
        [found] = host.check_output(f"sudo sh -c 'echo {path}'").split()[:1]
        assert host.run("sudo test -s %s", found).rc == 0, found
        assert host.run("sudo -u nobody cat %s", found).rc != 0, found
    assert host.run("sudo -u nobody env HOME=/tmp pass show %s", entry(rack)).rc != 0


def test_the_password_opens_the_vault_there(host, rack):
    """With ansible-vault as it is; every secret is in it."""
    vault = f"/srv/beowulf/.beowulf/{rack['rack_cluster']}/secrets.yml"
    script = f"pass show {entry(rack)} | ansible-vault view --vault-id {rack['rack_cluster']}@/dev/stdin {vault} | cut -d: -f1"
    answer = as_user(host, script)
    assert answer.rc == 0, answer.stderr
    assert {"redis", "ara_admin", "ara_secret_key", "ca", "backup"} <= set(answer.stdout.split())


def test_no_file_there_holds_the_password_plainly(host, rack):
    assert host.run("sudo test -e %s", f"/srv/beowulf/.beowulf/{rack['rack_cluster']}/vault-password").rc == 1


def test_the_tasks_there_open_it(host, rack):
    answer = as_user(host, "cd /srv/beowulf && invoke secrets.init")
    assert answer.rc == 0, answer.stdout + answer.stderr
    assert f"password in pass, as {entry(rack)}" in answer.stdout
    assert "generated" not in answer.stdout
