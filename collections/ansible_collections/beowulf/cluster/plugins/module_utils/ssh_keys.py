# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH keys that a stranger shows: read with a limit, and proven by a signature of a challenge (sshsig, PROTOCOL.sshsig of OpenSSH)."""

from __future__ import annotations

import os
import re
import stat
import subprocess

NAMESPACE = "cluster-ca"
PUBLIC_KEY = re.compile(r"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI[A-Za-z0-9+/]{43}")
"""All of a public key of Ed25519, 32 bytes, without a comment; to be used with fullmatch, as `$` admits a newline."""
SIGNATURE = re.compile(r"-----BEGIN SSH SIGNATURE-----\n(?:[A-Za-z0-9+/=]{1,76}\n){1,16}-----END SSH SIGNATURE-----\n")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
"""A name of a certificate, which is part of the names of files, too."""
LIMIT = 16384
"""Bytes of a file with a key, at most; one of Ed25519 has 400."""
SECONDS = 10
"""For one answer of ssh-keygen."""


class UnfitError(Exception):
    """A key that cannot be used; its text is one of the words in PROBLEMS."""


PROBLEMS = {
    "irregular": "is no regular file",
    "large": f"has more than {LIMIT} bytes",
    "unreadable": "is no private key of Ed25519 that ssh-keygen can use",
    "late": f"was not answered for by ssh-keygen in {SECONDS} s",
}
"""What may be wrong with the file of a key, as the end of a sentence."""


def message(challenge: str, name: str) -> bytes:
    """Return what the holder of a key signs to have it certified under a name."""
    return f"{challenge} {name}\n".encode()


def read_regular(path: str) -> bytes | None:
    """Return what is in a regular file; None without one. Neither follows a link nor waits for a FIFO. Raises UnfitError."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:  # a link, or a socket
        raise UnfitError("irregular") from error
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise UnfitError("irregular")
        content = os.read(number, LIMIT + 1)
    finally:
        os.close(number)
    if len(content) > LIMIT:
        raise UnfitError("large")
    return content


def ssh_keygen(*words: str, given: bytes = b"", files: tuple[int, ...] = ()) -> subprocess.CompletedProcess:
    """Run ssh-keygen, which never asks a question. Raises UnfitError when it does not end in time."""
    try:
        return subprocess.run(
            ["ssh-keygen", *words], input=given, pass_fds=files, capture_output=True, timeout=SECONDS, check=False, start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "SSH_ASKPASS_REQUIRE": "never"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UnfitError("late") from error


def prove(private_key: bytes, text: bytes) -> dict[str, str]:
    """Return {"key": public key, "signature": of the text, by the private one}. Raises UnfitError."""
    # In memory: not beside files that ssh-keygen would look for there, and not a second time on a disk.
    place = os.memfd_create("key")
    try:
        os.fchmod(place, 0o600)
        os.write(place, private_key)
        path = f"/proc/self/fd/{place}"
        shown = ssh_keygen("-y", "-P", "", "-f", path, files=(place,))
        signed = ssh_keygen("-Y", "sign", "-q", "-n", NAMESPACE, "-f", path, given=text, files=(place,))
    finally:
        os.close(place)
    key = " ".join(shown.stdout.decode("ascii", "replace").split()[:2])
    signature = signed.stdout.decode("ascii", "replace")
    if shown.returncode or signed.returncode or not (PUBLIC_KEY.fullmatch(key) and SIGNATURE.fullmatch(signature)):
        raise UnfitError("unreadable")
    return {"key": key, "signature": signature}


def is_proven(key: object, signature: object, text: bytes, folder: str) -> bool:
    """Say whether a stranger's words are a well-formed key and a signature of the text by it; `folder` is for files of this function."""
    if not (isinstance(key, str) and PUBLIC_KEY.fullmatch(key) and isinstance(signature, str) and SIGNATURE.fullmatch(signature)):
        return False
    paths = {"signers": f'holder namespaces="{NAMESPACE}" {key}\n', "signature": signature}
    for name, content in paths.items():
        with open(os.path.join(folder, name), "w", encoding="ascii") as file:
            file.write(content)
    signers, signed = (os.path.join(folder, name) for name in paths)
    try:
        return ssh_keygen("-Y", "verify", "-f", signers, "-I", "holder", "-n", NAMESPACE, "-s", signed, given=text).returncode == 0
    except UnfitError:
        return False
