"""`./bootstrap TASK…`: Invoke with this project's tasks, and exit code 2 for what it does not understand."""

from __future__ import annotations

from invoke import Exit, ParseError, Program, __version__

from beowulf.process import ROOT

# What may follow a task without the name of its option; Invoke's own positional arguments cannot be left out.
POSITIONAL = {"rack.check": "--file", "drill": "--name", "secrets.rotate": "--name"}


def named(arguments: list[str]) -> list[str]:
    """Write the optional positional arguments of tasks with their names: `rack.check FILE` is `rack.check --file FILE`."""
    result: list[str] = []
    option = None
    for word in arguments:
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


def main(arguments: list[str]) -> None:
    """Run tasks."""
    Operator(name="Invoke", binary="./bootstrap", version=__version__).run(["./bootstrap", "--search-root", str(ROOT), *named(arguments)])
