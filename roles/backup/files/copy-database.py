"""Copy an SQLite database while others write to it: copy-database.py SOURCE DESTINATION.

The copy has one moment's state of all of it (https://www.sqlite.org/backup.html), and owner, group, mode and time of the source.
Ends with 1 and a sentence when the source is no database, stays locked for a minute, or the copy does not pass SQLite's own check.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
from pathlib import Path

PATIENCE = 60


def copy(source: Path, destination: Path) -> None:
    """Write the copy beside its place, and put it there when it is complete."""
    destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = destination.with_name(destination.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=PATIENCE)) as live,
        contextlib.closing(sqlite3.connect(unfinished)) as still,
    ):
        # All pages in one step: a writer waits for it instead of making it begin anew.
        live.backup(still)
        # A single file, whatever the journal of the source is: what lies beside it is not kept.
        still.execute("PRAGMA journal_mode=DELETE")
        found = still.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
    owner = source.stat()
    os.chown(unfinished, owner.st_uid, owner.st_gid)
    shutil.copystat(source, unfinished)
    unfinished.replace(destination)


if __name__ == "__main__":
    try:
        copy(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
