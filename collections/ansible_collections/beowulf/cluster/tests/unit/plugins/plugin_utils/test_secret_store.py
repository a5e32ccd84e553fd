# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real files, real ansible-vault, real pass and GnuPG."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml

from ansible_collections.beowulf.cluster.plugins.plugin_utils import secret_store
from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import (
    KINDS,
    PASSWORD,
    MissingPasswordError,
    SecretError,
    SecretStore,
    WrongPasswordError,
)

KEY = """Key-Type: EDDSA
Key-Curve: ed25519
Subkey-Type: ECDH
Subkey-Curve: cv25519
Name-Email: vault@example.org
Expire-Date: 0
"""
NAMES = list(KINDS)


@pytest.fixture(autouse=True)
def nobodys_pass(tmp_path, monkeypatch):
    """The store of whoever runs the tests is not asked, and nothing is remembered from an earlier test."""
    monkeypatch.setenv("PASSWORD_STORE_DIR", str(tmp_path / "no-store"))
    secret_store._OPENED.clear()


@pytest.fixture
def store(tmp_path):
    return SecretStore(tmp_path / "state" / "lab", "lab")


@pytest.fixture
def password_store(store, monkeypatch):
    """A store of pass's with a key of its own; return what puts a password there."""
    if not (shutil.which("pass") and shutil.which("gpg")):
        pytest.skip("pass is not installed")
    # Sockets have short names, and those of pytest's folders are long.
    home = Path(subprocess.run(["mktemp", "-d", "/tmp/gpg-XXXXXX"], capture_output=True, text=True, check=True).stdout.strip())
    monkeypatch.setenv("GNUPGHOME", str(home))
    monkeypatch.setenv("PASSWORD_STORE_DIR", str(home / "store"))

    def insert(password, protection="%no-protection"):
        generate = ["gpg", "--batch", "--quiet", "--pinentry-mode=loopback", "--generate-key"]
        subprocess.run(generate, input=f"{KEY}{protection}\n", text=True, check=True, capture_output=True)
        subprocess.run(["pass", "init", "vault@example.org"], check=True, capture_output=True)
        subprocess.run(["pass", "insert", "-m", store.entry], input=password, text=True, check=True, capture_output=True)

    yield insert
    subprocess.run(["gpgconf", "--kill", "all"], check=False)
    shutil.rmtree(home, ignore_errors=True)


def view(store, password_file=None):
    """What ansible-vault itself says is in the file."""
    tool = str(Path(sys.executable).parent / "ansible-vault")
    command = [tool, "view", "--vault-id", f"lab@{password_file or store.password_file}", str(store.file)]
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    return yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_use_makes_everything_and_ansible_vault_reads_it(store):
    assert store.create() == NAMES
    values = view(store)
    assert dict(store.read()) == values
    assert all(len(value) == KINDS[name].length >= 32 and value.isalnum() for name, value in values.items())
    assert len(set(values.values())) == len(NAMES)
    assert store.file.read_text().startswith("$ANSIBLE_VAULT;1.2;AES256;lab\n")
    assert [mode(path) for path in (store.folder, store.file, store.password_file)] == [0o700, 0o600, 0o600]


def test_two_clusters_have_nothing_in_common(store, tmp_path):
    other = SecretStore(tmp_path / "state" / "home", "home")
    store.create()
    other.create()
    assert not {*store.read().values(), store.password()} & {*other.read().values(), other.password()}


def test_what_is_there_stays_and_what_is_missing_comes(store, monkeypatch):
    store.create()
    before = dict(store.read())
    monkeypatch.setattr(secret_store, "KINDS", {**KINDS, "new": secret_store.Kind("a later one", length=33)})
    assert store.create() == ["new"]
    after = dict(store.read())
    assert len(after.pop("new")) == 33
    assert after == before
    content = store.file.read_bytes()
    assert store.create() == []
    assert store.file.read_bytes() == content


def test_a_password_that_is_there_first_is_taken(store):
    store.folder.mkdir(parents=True)
    store.password_file.write_text("of my own\n")
    store.password_file.chmod(0o600)
    store.create()
    assert view(store)
    assert store.get(PASSWORD) == "of my own"


def first_use(arguments):
    folder, name = arguments
    return SecretStore(folder, "lab").get(name)


def test_processes_that_come_at_once_get_the_same(store):
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as pool:
        got = list(pool.map(first_use, [(store.folder, name) for name in ["redis", "ca", PASSWORD, "redis"] * 8]))
    assert len(set(got)) == 3
    assert set(got) == {store.get("redis"), store.get("ca"), store.get(PASSWORD)}


def test_a_writer_that_is_killed_leaves_the_old_file(store):
    store.create()
    before = store.file.read_bytes()
    child = os.fork()
    if not child:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        store.rotate(["redis"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert store.file.read_bytes() == before
    store.rotate(["redis"])
    assert view(store)


def test_an_unknown_name_says_which_there_are(store):
    with pytest.raises(SecretError, match=r"There is no secret 'reddis'\. Did you mean redis\? There are: redis, ara_admin, "):
        store.get("reddis")
    assert not store.folder.exists()


def test_a_wrong_password_is_a_sentence_and_changes_nothing(store):
    store.create()
    before = store.file.read_bytes()
    store.password_file.write_text("wrong\n")
    secret_store._OPENED.clear()
    for attempt in (lambda: store.get("redis"), store.create, store.read, lambda: store.rotate(["redis"]), store.rekey):
        began = time.monotonic()
        with pytest.raises(WrongPasswordError, match=f"that from {store.password_file} does not open {store.file}") as raised:
            attempt()
        assert time.monotonic() - began < 1
        assert "wrong\n" not in str(raised.value)
    assert store.file.read_bytes() == before
    assert store.password_file.read_text() == "wrong\n"


def test_a_missing_password_says_where_it_is_looked_for(store):
    store.create()
    store.password_file.unlink()
    secret_store._OPENED.clear()
    with pytest.raises(MissingPasswordError) as raised:
        store.create()
    assert "beowulf/lab/vault" in str(raised.value)
    assert str(store.password_file) in str(raised.value)
    assert not store.password_file.exists()


@pytest.mark.parametrize("bad", [0o640, 0o604, 0o660, 0o700, 0o644])
def test_a_password_file_that_others_may_read_is_refused(store, bad):
    store.create()
    store.password_file.chmod(bad)
    secret_store._OPENED.clear()
    with pytest.raises(SecretError, match=f"its mode is {bad:04o}.*chmod 600 {store.password_file}"):
        store.get("redis")
    store.password_file.chmod(0o600)
    assert store.get("redis")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_password_file_of_somebody_else_is_refused(store):
    store.create()
    os.chown(store.password_file, 65534, -1)
    secret_store._OPENED.clear()
    with pytest.raises(SecretError, match="it belongs to user 65534, not to you"):
        store.get("redis")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("redis: plain\n", "is not a file of ansible-vault"),
        ("", "is not a file of ansible-vault"),
        ("$ANSIBLE_VAULT;1.2;AES256;lab\n6162", "is wrong: that from"),
    ],
)
def test_a_damaged_file_is_a_sentence(store, content, said):
    store.create()
    store.file.write_text(content)
    with pytest.raises(SecretError, match=said):
        store.get("redis")
    assert store.file.read_text() == content


@pytest.mark.parametrize("content", ["- redis\n", "redis: 12\n", "redis: [\nfoo: hidden", "redis: ''\n"])
def test_a_file_of_another_shape_is_a_sentence_without_its_content(store, content):
    store.create()
    lib = secret_store.VaultLib
    secret = secret_store.VaultSecret(store.password().encode())
    store.file.write_bytes(lib([("lab", secret)]).encrypt(content, secret=secret, vault_id="lab"))
    with pytest.raises(SecretError, match="opens, but it is no list") as raised:
        store.get("redis")
    assert "hidden" not in str(raised.value)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretError, match="Not a directory"):
        SecretStore(tmp_path / "file" / "lab", "lab").create()


def test_it_is_decrypted_once_until_the_file_changes(store, monkeypatch):
    store.create()
    store.get("redis")
    counted = []
    decrypt = SecretStore._decrypt
    monkeypatch.setattr(SecretStore, "_decrypt", lambda self, *rest: counted.append(1) or decrypt(self, *rest))
    old = {store.get("redis") for _ in range(200)}
    assert (len(old), counted) == (1, [])
    # Another process, which this one is not told of.
    subprocess.run([sys.executable, "-c", f"""
import sys; sys.path[:0] = {sys.path!r}
from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretStore
SecretStore({str(store.folder)!r}, "lab").rotate(["redis"])"""], check=True)  # fmt: skip
    new = {store.get("redis") for _ in range(200)}
    assert (len(new), counted) == (1, [1])
    assert new != old


def test_rotation_changes_what_was_named_and_keeps_one_generation(store):
    store.create()
    first, content = dict(store.read()), store.file.read_bytes()
    assert store.rotate(["redis", "ara_admin"]) == ["redis", "ara_admin"]
    second = dict(store.read())
    assert {name for name in NAMES if first[name] != second[name]} == {"redis", "ara_admin"}
    assert store.previous.read_bytes() == content
    assert mode(store.previous) == 0o600
    middle = store.file.read_bytes()
    store.rotate(["redis"])
    assert store.previous.read_bytes() == middle


def test_every_content_that_was_replaced_is_known_again(store):
    store.create()
    contents = [store.file.read_bytes()]
    for _ in range(3):
        store.rotate(["redis"])
        contents.append(store.file.read_bytes())
    assert store.past.read_text().split() == [hashlib.sha256(content).hexdigest() for content in contents[:-1]]


def test_another_password_opens_the_same_secrets_and_the_old_one_none(store, tmp_path):
    store.create()
    store.rotate(["redis"])
    values, old = dict(store.read()), tmp_path / "old"
    shutil.copy(store.password_file, old)
    assert store.rekey() == str(store.password_file)
    assert view(store) == values
    assert mode(store.password_file) == 0o600
    with pytest.raises(subprocess.CalledProcessError):
        view(store, old)
    assert not store.previous.exists()
    assert not store.coming.exists()


@pytest.mark.parametrize("deaths", range(1, 5))
def test_a_change_of_the_password_may_be_killed_anywhere(store, deaths):
    """Killed before the nth time that a file takes the place of another."""
    store.create()
    values = dict(store.read())
    child = os.fork()
    if not child:
        real, count = os.replace, [0]

        def replace(*paths):
            count[0] += 1
            if count[0] == deaths:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*paths)

        os.replace = replace
        store.rekey()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    secret_store._OPENED.clear()
    assert dict(store.read()) == values
    assert view(store) == values
    store.rekey()
    assert not store.coming.exists()
    assert view(store) == values


def test_pass_comes_before_the_file(store, password_store, tmp_path):
    password_store("from pass\nand a note\n")
    store.folder.mkdir(parents=True)
    store.password_file.write_text("from the file\n")
    store.password_file.chmod(0o600)
    assert store.get(PASSWORD) == "from pass"
    noted = tmp_path / "noted"
    noted.write_text("from pass")
    assert view(store, noted) == dict(store.read())


def test_pass_gets_the_new_password_and_no_file_keeps_it(store, password_store):
    password_store("from pass\n")
    store.create()
    values = dict(store.read())
    assert store.rekey() == "pass, as beowulf/lab/vault"
    assert dict(store.read()) == values
    shown = subprocess.run(["pass", "show", store.entry], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == store.get(PASSWORD) != "from pass"
    assert not any(shown.encode() in path.read_bytes() for path in store.folder.iterdir())


def test_a_wrong_password_in_pass_is_a_sentence(store, password_store):
    store.create()
    password_store("wrong\n")
    secret_store._OPENED.clear()
    with pytest.raises(WrongPasswordError, match="that from `pass show beowulf/lab/vault` does not open"):
        store.get("redis")


def test_pass_asks_nobody_without_a_terminal(store, password_store, tmp_path):
    """The key has a passphrase that no agent knows: an error at once, and no wait for somebody who is not there."""
    password_store("from pass\n", protection="Passphrase: abc")
    asked = tmp_path / "asked"
    pinentry = tmp_path / "pinentry"
    pinentry.write_text(f"#!/bin/sh\ntouch {asked}\n")
    pinentry.chmod(0o755)
    (Path(os.environ["GNUPGHOME"]) / "gpg-agent.conf").write_text(f"pinentry-program {pinentry}\n")
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=True)
    began = time.monotonic()
    with pytest.raises(SecretError, match="`pass show beowulf/lab/vault` failed, so the password of"):
        store.get("redis")
    assert time.monotonic() - began < 3
    assert not asked.exists()
    assert not store.file.exists()


def test_pass_that_hangs_is_given_up_with_all_that_it_started(store, tmp_path, monkeypatch):
    entry = tmp_path / "no-store" / f"{store.entry}.gpg"
    entry.parent.mkdir(parents=True)
    entry.touch()
    program = tmp_path / "bin" / "pass"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nsleep 61 & echo $! > {tmp_path}/pid\nwait\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(secret_store, "PASS_LIMIT", 2)
    began = time.monotonic()
    with pytest.raises(SecretError, match="gave no answer in"):
        store.password()
    assert time.monotonic() - began < 20
    command = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/cmdline")
    # A process that was just killed has no command line any more, even before somebody collects it.
    deadline = time.monotonic() + 10
    while command.exists() and b"61" in command.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not command.exists() or b"61" not in command.read_bytes()
