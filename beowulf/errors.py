"""What can go wrong, as a person should read it; never shown with a traceback."""

from __future__ import annotations


class OperatorError(Exception):
    """Something that ends a task with a sentence and an exit code."""

    code = 1


class Failure(OperatorError):
    """It ran, and something failed: exit code 1."""


class Interrupted(OperatorError):
    """Somebody ended it, by Ctrl-C or SIGTERM: exit code 130."""

    code = 130


class Refusal(OperatorError):
    """Bad usage or a refused rack file, nothing was touched: exit code 2."""

    code = 2
