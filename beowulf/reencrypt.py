"""Change a passphrase together with what is encrypted by it, so that whoever has the old one alone opens nothing that is made from then on.

The new value is in the vault, beside the old one, before anything is encrypted with it, and takes its place when everything is. So a run
that is killed anywhere leaves each key with one of two passphrases that are both known, and the same command goes on from there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from beowulf import backup, lock, playbook, secrets, ssh
from beowulf.errors import Failure, Refusal
from beowulf.pki import identity, rotation
from beowulf.process import environment

if TYPE_CHECKING:
    from beowulf.cluster import Cluster

LIMIT = 300
"""Seconds for all keys: the key of a passphrase is made slowly on purpose, and a board is slow."""
REPOSITORY = "/var/backups/cluster"
"""backup_repository of roles/backup."""
# Standard input has the passphrase that they have, and the one that they get. A file takes the place of the one of before when it opens
# with the new passphrase; one that does already is left alone.
KEYS = r"""
import glob, os, subprocess, sys, tempfile
old, new = sys.stdin.read().splitlines()
os.umask(0o077)

def run(command, *lines):
    env = dict(os.environ, SSH_ASKPASS=ask, SSH_ASKPASS_REQUIRE="force")
    text = "".join(line + "\n" for line in lines)
    return subprocess.run(command, input=text, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

def opens(path, word):
    command = ["ssh-keygen", "-y", "-f", path] if ssh(path) else ["openssl", "pkey", "-noout", "-in", path, "-passin", "stdin"]
    return run(command, word).returncode == 0

def ssh(path):
    with open(path) as file:
        return file.readline().startswith("-----BEGIN OPENSSH")

with tempfile.TemporaryDirectory() as folder:
    ask = folder + "/ask"
    with open(ask, "w") as file:
        file.write("#!/bin/sh\nread -r line && printf '%s\\n' \"$line\"\n")
    os.chmod(ask, 0o700)
    for path in sorted({os.path.realpath(path) for pattern in sys.argv[1:]
                        for path in glob.glob(pattern)
                        if not path.endswith((".pub", ".rekey"))}):
        if opens(path, new):
            continue
        if not opens(path, old):
            sys.exit(path + " opens with neither passphrase: it was damaged, or encrypted with an older one")
        owner, fresh = os.stat(path), path + ".rekey"
        with open(path) as source, open(fresh, "w") as target:
            target.write(source.read())
        if ssh(path):
            done = run(["ssh-keygen", "-q", "-p", "-f", fresh], old, new, new)
        else:
            done = run(["openssl", "pkey", "-aes256", "-in", path, "-passin", "stdin", "-out", fresh, "-passout", "stdin"], old, new)
        if done.returncode or not opens(fresh, new):
            sys.exit(path + " cannot be encrypted anew: " + done.stderr.strip())
        os.chown(fresh, owner.st_uid, owner.st_gid)
        os.chmod(fresh, owner.st_mode & 0o777)
        for name in (fresh, os.path.dirname(path)):
            handle = os.open(name, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        os.replace(fresh, path)
"""
# Likewise. Borg writes the key of a repository as a whole; the key in it, with which the archives are encrypted, stays the same.
REPOSITORY_KEY = r"""
import os, subprocess, sys
old, new = sys.stdin.read().splitlines()
repository = sys.argv[1]
if not os.path.exists(repository + "/config"):
    sys.exit()

def borg(word, *command):
    env = dict(os.environ, BORG_PASSPHRASE=word, BORG_NEW_PASSPHRASE=new, BORG_BASE_DIR="/var/lib/cluster-backup", LC_ALL="C.UTF-8",
               BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")
    return subprocess.run(["borg", *command, repository], env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE)

if borg(new, "info").returncode:
    done = borg(old, "key", "change-passphrase")
    if done.returncode or borg(new, "info").returncode:
        sys.exit(repository + ": " + (done.stderr.strip().splitlines() or ["borg ended with %d" % done.returncode])[-1])
"""


def run(command: Sequence[str], old: str, new: str, where: str) -> None:
    """Run one of the programs; raise Failure with what it says is wrong. The passphrases go through its standard input alone."""
    try:
        done = subprocess.run(
            list(command), input=f"{old}\n{new}\n", env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{where} did not come to an end in {LIMIT} s.") from error
    if done.returncode:
        raise Failure(f"{where}: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}")


def on_deployer(cluster: Cluster, program: str, *arguments: str) -> list[str]:
    """Return the command that runs a Python program as root on the deployer."""
    words = ["python3", "-c", program, *arguments]
    return ssh.command(cluster, cluster.variables["rack_deployer"]["name"], words, root=True, may_ask=True)


def authority(cluster: Cluster, old: str, new: str) -> None:
    """Encrypt the keys of the authority anew: on the deployer, and the one of which this controller has a copy."""
    patterns = [f"{identity.FOLDER}/{name}" for name in ("ssh/*_ca.[0-9]*", "tls/*.key", "public/user_ca")]
    run(on_deployer(cluster, KEYS, *patterns), old, new, cluster.variables["rack_deployer"]["name"])
    run([sys.executable, "-c", KEYS, str(cluster.state / "ca" / "user_ca")], old, new, "this machine")


def backups(cluster: Cluster, old: str, new: str) -> None:
    """Encrypt the key of the deployer's repository anew, and the snapshots of k3s on this controller."""
    run(on_deployer(cluster, REPOSITORY_KEY, REPOSITORY), old, new, cluster.variables["rack_deployer"]["name"])
    from ansible.errors import AnsibleError
    from ansible.parsing.vault import VaultLib, VaultSecret

    before, after = (VaultLib([("default", VaultSecret(word.encode()))]) for word in (old, new))
    for path in sorted((cluster.state / "k3s-snapshots").glob("*.vault")):
        content = path.read_bytes()
        try:
            plain = before.decrypt(content)
        except AnsibleError:
            # By a run that was killed; or it is from before an earlier change, and stays what it was.
            continue
        fresh = path.with_name(f"{path.name}.rekey")
        fresh.touch(mode=0o600)
        fresh.write_bytes(after.encrypt(plain, secret=VaultSecret(new.encode())))
        fresh.replace(path)


WAYS: dict[str, Callable[[Cluster, str, str], None]] = {"ca": authority, "backup": backups}
"""How to encrypt anew what is encrypted with a secret, by its name."""


def rotate(cluster: Cluster, name: str) -> None:
    """Give a passphrase a new value, and encrypt anew what is encrypted with it. Raises Refusal while the deployer is away."""
    store, again = secrets.store_of(cluster), f"./bootstrap secrets.rotate {name} goes on where this ended; until then nothing is lost."
    deployer = cluster.variables["rack_deployer"]["name"]
    with lock.changing(cluster, "secrets.rotate"):
        if reason := rotation.absence(cluster, deployer):
            raise Refusal(f"secrets.rotate {name}: refused, nothing was touched. {deployer} has to come along, and does not: {reason}")
        with secrets.refused():
            old, new = store.stage(name)
        try:
            WAYS[name](cluster, old, new)
        except Failure as error:
            raise Failure(f"secrets.rotate {name} {cluster.name}: {error}\n  {again}") from error
        with secrets.refused():
            store.promote(name)
        print(f"secrets of {cluster.name}: {name} is new, and encrypts what the old one did; the file of before is {store.previous}")
        # The deployer signs and makes backups by itself: with its vault of before it would do neither.
        code, summary = playbook.run(playbook.command(cluster, "vault_copy"), "secrets.rotate")
        playbook.conclude("secrets.rotate", cluster, code, summary)
        if name == "backup":
            # Copies that others hold open with the old passphrase until they have this one.
            backup.create(cluster)
    for line in NEXT[name]:
        print(f"  {line}")


NEXT = {
    "ca": [
        "next: ./bootstrap backup.create, as the archives until now have the keys with the old passphrase;",
        "other controllers: copy secrets.yml from here, or from the deployer, before the next command there",
    ],
    "backup": [
        "copies in other folders open with the old passphrase until ./bootstrap backup.create --to FOLDER;",
        "other controllers: copy secrets.yml from here, or from the deployer, before the next command there",
    ],
}
"""What is left to do by hand."""


def rotate_secrets(cluster: Cluster, names: Sequence[str], password: bool = False) -> None:
    """Give secrets, or all that may change by themselves, or with `password` the vault's password alone, new values.

    The passphrases of the authority and of the backups change, each by itself, together with what they encrypt.
    """
    store = secrets.store_of(cluster)
    from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import KINDS, known

    with secrets.refused():
        bound = {name: kind.encrypts for name, kind in KINDS.items() if kind.encrypts}
        if password and names:
            raise Refusal("secrets.rotate --password gives the vault another password and changes no secret in it: leave the names out.")
        if len(names) == 1 and known(names[0]) in WAYS:
            rotate(cluster, names[0])
            return
        for name in names:
            if (encrypted := bound.get(known(name))) and name in WAYS:
                raise Refusal(
                    f"{encrypted} are encrypted with {name}, and are encrypted anew in the same step: say secrets.rotate {name} alone."
                )
            if encrypted:
                raise Refusal(f"{name} is not rotated: {encrypted} are encrypted with it, and nobody could read them any more.")
        if password:
            print(f"secrets of {cluster.name}: the vault has a new password, in {store.rekey()}\n{secrets.next_step(cluster)}")
            return
        changed = store.rotate(names or [name for name in KINDS if name not in bound])
    print(f"secrets of {cluster.name}: new values for {', '.join(changed)}; the file of before is {store.previous}")
    if not names:
        print(f"  left alone: {', '.join(f'{name} ({encrypted} are encrypted with it)' for name, encrypted in bound.items())}")
    print(secrets.next_step(cluster))
