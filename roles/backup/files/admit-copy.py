"""Say whether a copy of the repository may take the place of the last one: run by whoever holds PLACE.

admit-copy.py room PLACE BYTES PERCENT  Is so much of the file system left when as many bytes have come?
admit-copy.py archives PLACE KEEP       Has PLACE.incoming all that is worth keeping of PLACE? KEEP, JSON: {within, daily, weekly, monthly}

Ends with 3 and a sentence, which PLACE.refused keeps with the time, when it may not; PLACE.incoming is gone then, and PLACE as it was.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

REFUSED = 3
LIMIT = 1 << 18
ARCHIVE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")
UNITS = {"H": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "m": timedelta(days=31), "y": timedelta(days=365)}
SHOWN = 5


def read(path: Path) -> str:
    """Return the text of a small regular file. Raises OSError or ValueError for anything else."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is no regular file")
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise ValueError(f"{path} is too long")
    return data.decode()


def repository(place: Path) -> str | None:
    """Return the id of a repository; None when there is none that Borg could open."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read(place / "config"))
        found = parser.get("repository", "id")
    except (OSError, ValueError, configparser.Error):
        return None
    return found if re.fullmatch("[0-9a-f]{64}", found) else None


def archives(place: Path) -> dict[str, datetime]:
    """Return the archives that a copy says it has, and when each was begun; none when it says nothing that makes sense."""
    try:
        names = json.loads(read(place / "backup.json"))["archives"]
        matches = [match for name in names if (match := ARCHIVE.fullmatch(name))]
        return {match[0]: datetime.fromisoformat(match[1]) for match in matches}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def kept(times: Iterable[datetime], keep: Mapping[str, Any]) -> set[datetime]:
    """Return the times of which `borg prune` keeps the archive, right after the newest was made: the last one of each period."""
    ordered = sorted(times, reverse=True)
    within = int(keep["within"][:-1]) * UNITS[keep["within"][-1]]
    stay = {time for time in ordered if time > ordered[0] - within}
    for period, count in (("%Y-%m-%d", keep["daily"]), ("%G-%V", keep["weekly"]), ("%Y-%m", keep["monthly"])):
        last, left = "", int(count)
        for time in ordered:
            if left and (name := time.strftime(period)) != last:
                last = name
                left -= time not in stay
                stay.add(time)
    return stay


def lost(last: Mapping[str, datetime], new: Mapping[str, datetime], keep: Mapping[str, Any]) -> list[str]:
    """Return the archives that only the last copy has, and that are not old enough to have been let go."""
    stay = kept({*last.values(), *new.values()}, keep)
    return sorted(name for name, time in last.items() if name not in new and time in stay)


def refusal_of_archives(place: Path, keep: Mapping[str, Any]) -> str:
    """Return why a copy that has come may not take the place of the last one; empty when it may."""
    incoming = place.with_name(place.name + ".incoming")
    if not (mine := repository(place)):
        return ""
    last, new = archives(place), archives(incoming)
    another = repository(incoming) != mine
    gone = sorted(last) if another else lost(last, new, keep)
    if not gone and not another:
        return ""
    names = ", ".join(gone[-SHOWN:]) + (f" and {len(gone) - SHOWN} older ones" if len(gone) > SHOWN else "")
    count = f"{len(gone)} archive{'' if len(gone) == 1 else 's'}"
    what = f"{count} of it would be lost: {names}" if gone else "nothing is known of what is in it"
    why = "the new one is of another repository" if another else "the new one does not go on from it"
    return f"The last copy stays in {place}: {why}, and {what}. `backup.create --force` lets the last copy go."


def refusal_of_room(place: Path, needed: int, percent: int) -> str:
    """Return why there is no room for what comes; empty when there is."""
    disk = os.statvfs(place.parent)
    left, size = disk.f_bavail * disk.f_frsize - needed, disk.f_blocks * disk.f_frsize
    if left * 100 >= size * percent:
        return ""
    free = f"{(left + needed) / 1e6:.1f} of {size / 1e6:.1f} MB are free there, and {needed / 1e6:.1f} MB would come"
    return f"The last copy stays in {place}: with the new one less than {percent} % of its file system would be left ({free}). Make room."


def main(question: str, place: Path, *rest: str) -> int:
    """Ask, and note a refusal beside the copy."""
    reason = refusal_of_room(place, *map(int, rest)) if question == "room" else refusal_of_archives(place, json.loads(*rest))
    if not reason:
        return 0
    shutil.rmtree(place.with_name(place.name + ".incoming"), ignore_errors=True)
    # A disk may be too full even for that.
    with contextlib.suppress(OSError):
        note = place.with_name(place.name + ".refused")
        note.unlink(missing_ok=True)
        note.touch(mode=0o600)
        note.write_text(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {reason}\n", encoding="utf-8")
    print(reason)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
