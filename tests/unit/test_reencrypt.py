"""Passphrases change together with what they encrypt: real keys and a real repository, in the place of those on the deployer."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from types import SimpleNamespace

import pytest

from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretStore
from beowulf import backup, lock, playbook, reencrypt, secrets
from beowulf.errors import Failure, Refusal
from beowulf.pki import identity, rotation
from beowulf.process import environment, tool


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster whose deployer is this machine: its commands run here, and its folders are the test's."""
    monkeypatch.setenv("PASSWORD_STORE_DIR", str(tmp_path / "none"))
    (tmp_path / "bin").mkdir()
    sudo = tmp_path / "bin" / "sudo"
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(identity, "FOLDER", str(tmp_path / "cluster-ca"))
    monkeypatch.setattr(reencrypt, "REPOSITORY", str(tmp_path / "repository"))
    monkeypatch.setattr(reencrypt, "REPOSITORY_KEY", reencrypt.REPOSITORY_KEY.replace("/var/lib/cluster-backup", str(tmp_path / "borg")))
    monkeypatch.setattr(rotation, "absence", lambda *_: "")
    monkeypatch.setattr(lock, "ask_deployer", lambda *_: subprocess.Popen(["cat"], stdin=subprocess.PIPE))
    played = []
    monkeypatch.setattr(playbook, "run", lambda command, _task: played.append(command) or (0, {}))
    monkeypatch.setattr(playbook, "conclude", lambda *_: None)
    monkeypatch.setattr(backup, "create", lambda *_: played.append("backup.create"))
    state = tmp_path / "state"
    (state / "ca").mkdir(parents=True)
    return SimpleNamespace(
        name="lab", path=tmp_path / "lab.rack.yml", state=state, rack=SimpleNamespace(cluster="lab"),
        variables={"rack_deployer": {"name": "psi"}, "rack_ssh_user": "root"},
        ssh=lambda _node: ["sh", "-c"], played=played, store=SecretStore(state, "lab"),
    )  # fmt: skip


def ssh_opens(path, word):
    """Say whether a key opens with a passphrase."""
    return subprocess.run(["ssh-keygen", "-y", "-P", word, "-f", str(path)], capture_output=True, check=False).returncode == 0


def tls_opens(path, word):
    command = ["openssl", "pkey", "-noout", "-in", str(path), "-passin", f"pass:{word}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def keys(cluster, tmp_path):
    """Make the keys of an authority, as the role does; return them with what says whether they open."""
    word, folder = cluster.store.get("ca"), tmp_path / "cluster-ca"
    for name in ("ssh", "tls", "public"):
        (folder / name).mkdir(parents=True)
    found = {}
    for name in ("user_ca.1", "user_ca.2", "host_ca.2"):
        path = folder / "ssh" / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", word, "-C", f"{name} of lab", "-f", str(path)], check=True)
        found[path] = ssh_opens
    for name in ("root.2.key", "intermediate.2.key"):
        path = folder / "tls" / name
        command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-aes256", "-pass", f"pass:{word}"]
        subprocess.run([*command, "-out", str(path)], check=True, capture_output=True)
        path.chmod(0o600)
        found[path] = tls_opens
    (folder / "tls" / "root.key").symlink_to("root.2.key")
    for copy in (folder / "public" / "user_ca", cluster.state / "ca" / "user_ca"):
        shutil.copy(folder / "ssh" / "user_ca.2", copy)
        found[copy] = ssh_opens
    return found


def test_the_keys_of_the_authority_open_with_the_new_passphrase_alone(cluster, keys, tmp_path, capsys):
    old, comments = cluster.store.get("ca"), {path: path.with_name(path.name + ".pub") for path in keys}
    comments = {path: public.read_text() for path, public in comments.items() if public.is_file()}
    reencrypt.rotate_secrets(cluster, ["ca"])
    new = cluster.store.get("ca")
    assert new != old
    for path, opens in keys.items():
        assert opens(path, new), path
        assert not opens(path, old), path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = {path: subprocess.run(["ssh-keygen", "-y", "-P", new, "-f", str(path)], capture_output=True, text=True, check=True).stdout
             for path in comments}  # fmt: skip
    assert shown == comments, "another key, or another comment"
    assert (tmp_path / "cluster-ca/tls/root.key").is_symlink()
    assert not list(tmp_path.glob("**/*.rekey"))
    assert [command[-1] for command in cluster.played] == ["playbooks/vault_copy.yml"], "the deployer has the old one"
    said = "".join(capsys.readouterr())
    assert old not in said
    assert new not in said


def test_a_run_that_is_killed_goes_on_with_the_same_passphrase(cluster, keys, tmp_path):
    """In the middle of the keys: nobody is shut out, nothing else begins, and the same command ends it."""
    old = cluster.store.get("ca")
    real = shutil.which("openssl")
    fake = tmp_path / "bin" / "openssl"
    # The change of the first key of TLS ends the program that has asked for it.
    fake.write_text(f'#!/bin/sh\ncase " $* " in *" -out "*) kill -9 $PPID; exit 1;; esac\nexec {real} "$@"\n')
    fake.chmod(0o755)
    with pytest.raises(Failure, match=r"secrets\.rotate ca goes on where this ended"):
        reencrypt.rotate_secrets(cluster, ["ca"])
    coming = cluster.store.staged()["ca"]
    state = {path.name: (opens(path, old), opens(path, coming)) for path, opens in keys.items()}
    assert set(state.values()) == {(True, False), (False, True)}, state
    assert secrets.passphrases(cluster, "ca") == [old, coming]
    assert cluster.store.get("ca") == old
    with pytest.raises(Refusal, match=r"secrets\.rotate ca was interrupted"):
        secrets.preflight(cluster)
    fake.unlink()
    reencrypt.rotate_secrets(cluster, ["ca"])
    assert cluster.store.get("ca") == coming
    assert cluster.store.staged() == {}
    assert all(opens(path, coming) and not opens(path, old) for path, opens in keys.items())
    secrets.preflight(cluster)


def test_one_that_is_killed_after_the_last_key_ends_all_the_same(cluster, keys, monkeypatch):
    """Then everything is encrypted anew, and the vault does not say so yet."""

    class KilledError(Exception):
        pass

    def killed(*_):
        raise KilledError

    with monkeypatch.context() as context:
        context.setattr(SecretStore, "promote", killed)
        with pytest.raises(KilledError):
            reencrypt.rotate_secrets(cluster, ["ca"])
    coming = cluster.store.staged()["ca"]
    before = {path: path.read_bytes() for path in keys}
    reencrypt.rotate_secrets(cluster, ["ca"])
    assert cluster.store.get("ca") == coming
    assert {path: path.read_bytes() for path in keys} == before


def test_a_key_with_another_passphrase_is_named_and_stays(cluster, keys):
    path = next(path for path in keys if path.name == "user_ca.1")
    path.unlink()
    path.with_name("user_ca.1.pub").unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "another", "-f", str(path)], check=True)
    with pytest.raises(Failure, match=r"user_ca\.1 opens with neither passphrase"):
        reencrypt.rotate_secrets(cluster, ["ca"])
    assert ssh_opens(path, "another")


def test_nothing_begins_while_the_deployer_is_away(cluster, keys, monkeypatch):
    monkeypatch.setattr(rotation, "absence", lambda *_: "No route to host")
    with pytest.raises(Refusal, match="psi has to come along, and does not: No route to host"):
        reencrypt.rotate_secrets(cluster, ["ca"])
    assert cluster.store.staged() == {}


def borg_opens(repository, word, base):
    env = environment(BORG_PASSPHRASE=word, BORG_BASE_DIR=str(base), BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
    return subprocess.run(["borg", "list", str(repository)], env=env, capture_output=True, check=False).returncode == 0


def test_the_backups_open_with_the_new_passphrase_alone(cluster, tmp_path):
    old, repository, base = cluster.store.get("backup"), tmp_path / "repository", tmp_path / "borg"
    env = environment(BORG_PASSPHRASE=old, BORG_BASE_DIR=str(base))
    subprocess.run(["borg", "init", "--encryption=repokey-blake2", str(repository)], env=env, check=True, capture_output=True)
    subprocess.run(["borg", "create", f"{repository}::lab-1", __file__], env=env, check=True, capture_output=True)
    reencrypt.rotate_secrets(cluster, ["backup"])
    new = cluster.store.get("backup")
    assert borg_opens(repository, new, base)
    assert not borg_opens(repository, old, base)
    assert cluster.played[-1] == "backup.create", "those who hold copies have the old one"
    # As after a run that was killed between the repository and the vault.
    reencrypt.backups(cluster, old, new)
    assert borg_opens(repository, new, base)


def test_a_snapshot_of_k3s_is_encrypted_anew_with_the_backups(cluster):
    old, place = cluster.store.get("backup"), cluster.state / "k3s-snapshots" / "shot.tar.gz.vault"
    place.parent.mkdir()
    place.write_text("the cluster")
    vault = [tool("ansible-vault"), "--vault-password-file=/dev/stdin"]
    subprocess.run([vault[0], "encrypt", *vault[1:], str(place)], input=old, text=True, env=environment(), check=True, capture_output=True)
    reencrypt.rotate_secrets(cluster, ["backup"])
    command = [vault[0], "view", *vault[1:], str(place)]
    shown = subprocess.run(command, input=cluster.store.get("backup"), text=True, env=environment(), check=True, capture_output=True)
    assert shown.stdout.strip() == "the cluster"
