# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A password in a file of its own, which nobody but its owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class PasswordFileError(Exception):
    """A sentence that says why the file is not taken; never holds what is in it."""


def read(path: str | os.PathLike[str]) -> str:
    """Return the password in the file `path`; raise PasswordFileError for one that is not there, empty, or open to others."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PasswordFileError(f"The password file {path} is refused: it is not a file.")
            if status.st_uid != os.geteuid():
                raise PasswordFileError(
                    f"The password file {path} is refused: it belongs to user {status.st_uid}, not to you ({os.geteuid()})."
                )
            if (mode := stat.S_IMODE(status.st_mode)) & 0o177:
                raise PasswordFileError(
                    f"The password file {path} is refused: its mode is {mode:04o}, others may read it. chmod 600 {path}"
                )
            content = stream.read()
    except OSError as error:
        raise PasswordFileError(f"{path}: {error.strerror}") from error
    # As ansible-vault does, so that both mean the same password.
    password = content.decode(errors="replace").strip()
    if not password:
        raise PasswordFileError(f"The password file {path} is empty.")
    return password
