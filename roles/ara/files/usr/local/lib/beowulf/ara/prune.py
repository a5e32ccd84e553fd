"""Forget the recorded runs that began more than so many days ago: prune.py DAYS, with ARA's settings in the environment.

Prints how many there were. ARA's own command asks ARA's interface, which wants the login; this one needs no password.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import django


def prune(days: int) -> int:
    """Delete the runs, one after the other, so that ARA can write in between, and the contents of files that no run has any more."""
    from ara.api.models import FileContent, Playbook
    from django.utils import timezone

    old = Playbook.objects.filter(started__lt=timezone.now() - timedelta(days=days)).order_by("started")
    numbers = list(old.values_list("id", flat=True))
    for number in numbers:
        Playbook.objects.filter(id=number).delete()
    FileContent.objects.filter(files__isnull=True).delete()
    return len(numbers)


def main(arguments: list[str]) -> int:
    """Run as a command."""
    if len(arguments) != 1 or not arguments[0].isdecimal() or int(arguments[0]) < 1:
        print("usage: prune.py DAYS", file=sys.stderr)
        return 2
    django.setup()
    from django.db import DatabaseError

    try:
        print(f"{prune(int(arguments[0]))} runs of more than {arguments[0]} days ago are forgotten")
    except DatabaseError as error:
        print(f"prune.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
