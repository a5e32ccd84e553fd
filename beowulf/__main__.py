"""`./bootstrap TASK…`: Invoke with this project's tasks, and exit code 2 for what it does not understand."""

from __future__ import annotations

import shlex

from invoke import Exit, ParseError, Program, __version__

from beowulf.process import ROOT

# What may follow a task without the name of its option; Invoke's own positional arguments cannot be left out.
POSITIONAL = {"rack.check": "--file", "drill": "--name", "secrets.rotate": "--name"}


def named(arguments: list[str]) -> list[str]:
    """Write the optional positional arguments of tasks with their names: `rack.check FILE` is `rack.check --file FILE`.

    What follows `--` is for a task to hand on. Invoke joins it with spaces: it is quoted, so that a shlex.split gives it back.
    """
    result: list[str] = []
    option = None
    for number, word in enumerate(arguments):
        if word == "--":
            return [*result, word, *map(shlex.quote, arguments[number + 1 :])]
        if option and not word.startswith("-"):
            result += [option, word]
        else:
            result.append(word)
            option = POSITIONAL.get(word)
    return result


class Operator(Program):
    """Invoke, as the operator meets it."""

    def parse_core(self, argv: list[str] | None) -> None:
        """Read the options of Invoke itself."""
        try:
            super().parse_core(argv)
        except ParseError as error:
            raise Exit(f"{error} ./bootstrap --help", code=2) from error

    def parse_tasks(self) -> None:
        """Read the tasks and their options."""
        try:
            super().parse_tasks()
        except ParseError as error:
            raise Exit(f"{error} ./bootstrap --list shows the tasks, ./bootstrap --help TASK its options.", code=2) from error
        except ValueError as error:
            # An option that wants a number was given something else; Invoke leaves it to Python to say so.
            raise Exit(f"This is no number: {error} ./bootstrap --help TASK shows the options.", code=2) from error


def main(arguments: list[str]) -> None:
    """Run tasks."""
    Operator(name="Invoke", binary="./bootstrap", version=__version__).run(["./bootstrap", "--search-root", str(ROOT), *named(arguments)])
