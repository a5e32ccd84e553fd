"""Make or change an account of ARA's: account.py NAME [--check], with the password on standard input and ARA's settings in the environment.

Prints `created`, `changed` or `same`, with --check for what it would do. Ends with 1 when there is no database for it yet.
"""

from __future__ import annotations

import sys

import django


def settle(name: str, password: str, check: bool) -> str:
    """Bring the account to what it should be; return what was different."""
    from django.contrib.auth import get_user_model

    users = get_user_model()
    user = users.objects.filter(username=name).first()
    if user and user.is_active and user.is_staff and user.is_superuser and user.check_password(password):
        return "same"
    outcome = "changed" if user else "created"
    if not check:
        user = user or users(username=name)
        user.is_active = user.is_staff = user.is_superuser = True
        user.set_password(password)
        user.save()
    return outcome


def main(arguments: list[str]) -> int:
    """Run as a command."""
    check = arguments[1:] == ["--check"]
    if not arguments or (arguments[1:] and not check):
        print("usage: account.py NAME [--check] < PASSWORD", file=sys.stderr)
        return 2
    password = sys.stdin.readline().rstrip("\n")
    if not password:
        print("account.py: the password is empty", file=sys.stderr)
        return 2
    django.setup()
    from django.db import DatabaseError

    try:
        print(settle(arguments[0], password, check))
    except DatabaseError as error:
        print(f"account.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
