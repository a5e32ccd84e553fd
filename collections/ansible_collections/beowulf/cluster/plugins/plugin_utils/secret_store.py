# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets of a cluster: one ansible-vault file in the cluster's folder, and where its password comes from."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.beowulf.cluster.plugins.plugin_utils import password_file, programs
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import nearest

ALPHABET = string.ascii_letters + string.digits
"""No sign that a shell, a URL or a configuration file would read in its own way."""
PASSWORD = "vault"  # noqa: S105  # a name
"""The name under which the password of the file itself is asked for; it is none of the secrets in it."""
COMING = ".next"
"""After the name of a secret: the value that it is about to have, while what is encrypted with it is encrypted anew."""
PASSWORD_LENGTH = 40
PASS_LIMIT = 10.0
"""Seconds for `pass` when it can ask nobody."""
PASS_PATIENCE = 60.0
"""Seconds for `pass` when a person may have to type."""


@dataclass(frozen=True)
class Kind:
    """What a secret is for, how long it is, and what is encrypted with it: that is lost with the old value."""

    purpose: str
    length: int = 40
    encrypts: str = ""


KINDS: Mapping[str, Kind] = {
    "redis": Kind("password of Redis, where the controllers share their facts"),
    "ara_admin": Kind("password of the user admin in ARA's pages"),
    # Django warns of a key with less than 50 characters.
    "ara_secret_key": Kind("key with which ARA signs its sessions", length=64),
    "ca": Kind("passphrase of the keys of the certificate authorities", encrypts="the keys of the certificate authorities"),
    "backup": Kind("passphrase of the backups", encrypts="the backups"),
    # Its first server encrypts the keys of the cluster with it before they go into the datastore (PBKDF2, pkg/cluster/encrypt.go).
    "k3s": Kind("token that servers join k3s with", encrypts="the keys in the datastore of k3s"),
    "k3s_agent": Kind("token that agents join k3s with"),
}
"""All secrets that there are."""


class SecretError(Exception):
    """A sentence for the person who has to do something about it; never holds a secret."""


class WrongPasswordError(SecretError):
    """The file is there, and so is a password, but it is not the file's."""


class MissingPasswordError(SecretError):
    """There is no password in any of its places."""


def known(name: str) -> str:
    """Return the name of a secret, or raise SecretError with the names that there are."""
    if name not in KINDS:
        near = nearest(name, KINDS)
        meant = f" Did you mean {near}?" if near else ""
        raise SecretError(f"There is no secret {name!r}.{meant} There are: {', '.join(KINDS)}.")
    return name


def generate(length: int) -> str:
    """Return a new random value; 40 letters and digits are worth 238 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


@dataclass(frozen=True)
class Opened:
    """What was in the file, and the password that opened it."""

    values: Mapping[str, str]
    password: str


_OPENED: dict[Path, tuple[tuple[int, ...], Opened]] = {}
"""Decrypted files of this process: a play asks hundreds of times, the file changes next to never."""


class SecretStore:
    """The secrets of one cluster.

    ``folder`` is the folder of the cluster's state on a controller, ``cluster`` the cluster's name. Whatever is wrong with
    files or passwords raises SecretError. Writers exclude each other by a lock, and readers always find a whole file.
    """

    def __init__(self, folder: str | os.PathLike[str], cluster: str) -> None:
        self.folder = Path(folder)
        self.cluster = cluster
        self.entry = f"beowulf/{cluster}/vault"
        self.file = self.folder / "secrets.yml"
        # SHA-256 of every content that was replaced, so that a copy elsewhere is known to be an older one of this file.
        self.past = self.folder / "secrets.yml.past"
        self.previous = self.folder / "secrets.yml.old"
        self.password_file = self.folder / "vault-password"
        # Only while the password changes: it makes the step from one pair of file and password to the next one whole.
        self.coming = self.folder / "vault-password.next"

    # Reading

    def read(self) -> Mapping[str, str]:
        """Return all secrets that the file holds; none without a file."""
        return self._open().values if self.file.exists() else {}

    def get(self, name: str) -> str:
        """Return a secret, or with the name PASSWORD that of the file; generate whatever is missing."""
        if name != PASSWORD:
            known(name)
        self.create()
        opened = self._open()
        return opened.password if name == PASSWORD else opened.values[name]

    def password(self) -> str:
        """Return the password of the file: from `pass` when it has one for this cluster, else from the file for it."""
        if self.is_in_pass():
            return self._from_pass()
        if os.path.lexists(self.password_file):
            return self._from_file(self.password_file)
        why = "has no such entry" if shutil.which("pass") else "is not installed"
        raise MissingPasswordError(
            f"The secrets of {self.cluster} cannot be read: {self.file} is there, but its password is not. It is looked for in `pass` "
            f"as {self.entry} (pass {why}) and in {self.password_file} (there is no such file). "
            f"Bring one of the two from a controller that has it: `pass show {self.entry}` on the deployer shows the password."
        )

    def is_in_pass(self) -> bool:
        """Say whether `pass` is installed and has an entry for this cluster."""
        store = Path(os.environ.get("PASSWORD_STORE_DIR") or "~/.password-store").expanduser()
        return (store / f"{self.entry}.gpg").is_file() and shutil.which("pass") is not None

    # Writing

    def create(self) -> list[str]:
        """Generate what is missing: the folder, the password, the file, secrets in it. Return the names of the new secrets."""
        if self.file.exists() and not self._missing(self._open().values):
            return []
        with self._lock():
            self._settle()
            opened = self._decrypt() if self.file.exists() else Opened({}, self._first_password())
            new = self._missing(opened.values)
            if new:
                self._encrypt({**opened.values, **{name: generate(KINDS[name].length) for name in new}}, opened.password)
            return new

    def rotate(self, names: Iterable[str]) -> list[str]:
        """Give secrets new values and return their names. The file of before stays as `secrets.yml.old`, one generation of it.

        What is encrypted with a secret (Kind.encrypts) stays encrypted with the old value: the caller has to see to it.
        """
        chosen = [known(name) for name in names]
        self.create()
        with self._lock():
            self._settle()
            opened = self._decrypt()
            _write(self.previous, self._read_bytes(self.file))
            self._encrypt({**opened.values, **{name: generate(KINDS[name].length) for name in chosen}}, opened.password)
        return chosen

    def stage(self, name: str) -> tuple[str, str]:
        """Return the value of a secret and the one that comes after it, which is in the file from then on until `promote`.

        A coming value that is there already is taken: a change that was interrupted goes on with it.
        """
        known(name)
        self.create()
        with self._lock():
            self._settle()
            opened = self._decrypt()
            values = {f"{name}{COMING}": generate(KINDS[name].length), **opened.values}
            if values != opened.values:
                self._encrypt(values, opened.password)
            return values[name], values[f"{name}{COMING}"]

    def staged(self) -> dict[str, str]:
        """Return the coming values of secrets whose change was interrupted, by the names of the secrets."""
        return {name.removesuffix(COMING): value for name, value in self.read().items() if name.endswith(COMING)}

    def promote(self, name: str) -> None:
        """Give a secret the value that was staged. The file of before stays as `secrets.yml.old`."""
        with self._lock():
            self._settle()
            opened = self._decrypt()
            values = {**opened.values, name: opened.values[f"{name}{COMING}"]}
            del values[f"{name}{COMING}"]
            _write(self.previous, self._read_bytes(self.file))
            self._encrypt(values, opened.password)

    def rekey(self) -> str:
        """Give the file another password; return where that is kept.

        The old generation goes: whoever has the old password could read it. A crash at any point leaves a file that opens:
        the coming password is on the disk before the file needs it, and stays until it is in its place.
        """
        self.create()
        with self._lock():
            self._settle()
            values = self._decrypt().values
            _write(self.coming, generate(PASSWORD_LENGTH).encode() + b"\n")
            self._encrypt(values, self._from_file(self.coming))
            self.previous.unlink(missing_ok=True)
            self._settle()
        return f"pass, as {self.entry}" if self.is_in_pass() else str(self.password_file)

    # The file

    def _missing(self, values: Mapping[str, str]) -> list[str]:
        return [name for name in KINDS if name not in values]

    def _open(self) -> Opened:
        """Return the content of the file, from memory while the file is the same."""
        with _plainly(self.file):
            status = self.file.stat()
        signature = (status.st_ino, status.st_mtime_ns, status.st_size)
        seen = _OPENED.get(self.file)
        if seen and seen[0] == signature:
            return seen[1]
        try:
            opened = self._decrypt()
        except (WrongPasswordError, MissingPasswordError):
            # Perhaps between the two halves of a change of the password, of a process that goes on or was killed.
            with self._lock():
                self._settle()
                opened = self._decrypt()
        _OPENED[self.file] = (signature, opened)
        return opened

    def _decrypt(self, password: str | None = None) -> Opened:
        """Read the file with a password, by default with that from its place."""
        content = self._read_bytes(self.file)
        if not content.startswith(b"$ANSIBLE_VAULT;"):
            raise SecretError(f"{self.file} is not a file of ansible-vault: it was damaged, or written by something else.")
        password = self.password() if password is None else password
        try:
            text = VaultLib([(self.cluster, VaultSecret(password.encode()))]).decrypt(content)
        except (AnsibleError, ValueError) as error:
            raise WrongPasswordError(
                f"The password of the secrets of {self.cluster} is wrong: that from {self._source()} does not open {self.file}. "
                "Bring the right one from a controller that has it; nothing was touched."
            ) from error
        try:
            values = yaml.safe_load(text) or {}
        except yaml.YAMLError:
            # The message of the parser would show the lines around.
            values = None
        if not isinstance(values, dict) or not all(isinstance(item, str) and item for pair in values.items() for item in pair):
            raise SecretError(
                f"{self.file} opens, but it is no list of `NAME: value` with plain texts: ansible-vault edit --vault-id "
                f"{self.cluster}@PASSWORD_FILE {self.file}"
            )
        return Opened(values, password)

    def _encrypt(self, values: Mapping[str, str], password: str) -> None:
        if self.file.exists():
            digest = hashlib.sha256(self._read_bytes(self.file)).hexdigest()
            _write(self.past, (self._read_bytes(self.past) if self.past.exists() else b"") + f"{digest}\n".encode())
        secret = VaultSecret(password.encode())
        text = yaml.safe_dump(dict(values), default_flow_style=False, sort_keys=False)
        _write(self.file, VaultLib([(self.cluster, secret)]).encrypt(text, secret=secret, vault_id=self.cluster))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process at a time write."""
        path = self.folder / "secrets.lock"
        with _plainly(path):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @staticmethod
    def _read_bytes(path: Path) -> bytes:
        with _plainly(path):
            return path.read_bytes()

    # The password

    def _source(self) -> str:
        return f"`pass show {self.entry}`" if self.is_in_pass() else str(self.password_file)

    def _first_password(self) -> str:
        """Return the password for a file that is still to be written: one that is there already, or a new one."""
        try:
            return self.password()
        except MissingPasswordError:
            password = generate(PASSWORD_LENGTH)
            _write(self.password_file, f"{password}\n".encode())
            return password

    def _settle(self) -> None:
        """Finish a change of the password that was interrupted, or forget one that had not begun; needs the lock."""
        if not self.coming.exists():
            return
        password = self._from_file(self.coming)
        try:
            self._decrypt(password)
        except WrongPasswordError:
            self.coming.unlink()
            return
        if self.is_in_pass():
            self._pass("insert", "--multiline", "--force", self.entry, text=f"{password}\n")
            self.coming.unlink()
        else:
            os.replace(self.coming, self.password_file)

    def _from_file(self, path: Path) -> str:
        """Read a password file that nobody else may read."""
        try:
            return password_file.read(path)
        except password_file.PasswordFileError as error:
            raise SecretError(str(error)) from error

    def _from_pass(self) -> str:
        lines = self._pass("show", self.entry).splitlines()
        if not lines or not lines[0].strip():
            raise SecretError(f"The first line of `pass show {self.entry}` is empty; it should be the password of {self.file}.")
        return lines[0].strip()

    def _pass(self, *arguments: str, text: str = "") -> str:
        """Run `pass` and return what it prints; it may ask for a passphrase only where somebody can answer."""
        asks = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
        env = dict(os.environ)
        if asks:
            env.setdefault("GPG_TTY", os.ttyname(sys.stdin.fileno()))
        else:
            env["PASSWORD_STORE_GPG_OPTS"] = f"{env.get('PASSWORD_STORE_GPG_OPTS', '')} --pinentry-mode=error".strip()
        pipes = {"stdin": subprocess.PIPE if text else subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # A session of its own, so that whatever it started ends with it.
        with programs.start(["pass", *arguments], env=env, text=True, start_new_session=True, **pipes) as child:
            try:
                output, complaint = child.communicate(text or None, timeout=PASS_PATIENCE if asks else PASS_LIMIT)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise SecretError(
                        f"`pass {arguments[0]} {self.entry}` gave no answer in {error.timeout:g} s, "
                        f"so the password of {self.file} is unknown. Try it in a terminal: "
                        "perhaps gpg-agent hangs (gpgconf --kill gpg-agent)."
                    ) from error
                raise
        if child.returncode:
            reason = next((line.strip() for line in reversed(complaint.splitlines()) if line.strip()), f"it ended with {child.returncode}")
            raise SecretError(
                f"`pass {arguments[0]} {self.entry}` failed, so the password of {self.file} is unknown: {reason}. "
                "Try it in a terminal: gpg may need the passphrase of the key, which it then remembers for a while."
            )
        return output


@contextlib.contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into a sentence."""
    try:
        yield
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """Put a whole file, for its owner only, in the place of another, so that it outlives a crash; needs the lock."""
    temporary = path.with_name(f".{path.name}.new")
    with _plainly(path):
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
