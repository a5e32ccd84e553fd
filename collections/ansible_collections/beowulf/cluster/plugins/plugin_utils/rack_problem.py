# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a rack file, said in a way a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

HIDDEN = "(hidden)"


class Refused(ValueError):
    """One value breaks one rule; raised by the checks of single values.

    ``rule`` completes the sentence "KEY = VALUE …", ``hint`` says what to write instead.
    """

    def __init__(self, rule: str, hint: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One mistake in a rack file. Lines and columns count from 1; 0 means the file as a whole."""

    file: str
    line: int
    column: int
    node: str | None
    key: str
    value: str
    rule: str
    hint: str = ""

    def __str__(self) -> str:
        """``FILE:LINE:COLUMN: node NAME: KEY = VALUE RULE``, and the hint on a second line."""
        place = ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])
        words = [f"node {self.node}:"] if self.node else []
        if self.key:
            words.append(f"{self.key} = {self.value}" if self.value else self.key)
        hint = f"\n    hint: {self.hint}" if self.hint else ""
        return f"{place}: {' '.join([*words, self.rule])}{hint}"


class RackError(Exception):
    """A rack file was refused; ``problems`` holds every mistake, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """All problems, one below the other, after a line that counts them."""
        count = len(self.problems)
        title = f"{self.problems[0].file} is refused: {count} problem{'s' if count > 1 else ''}"
        return "\n".join([title, *(f"  {problem}" for problem in self.problems)])


def show(value: Any, limit: int = 60) -> str:
    """How a value of the file appears in a message: one line, at most ``limit`` characters, nothing for mappings and lists."""
    if isinstance(value, dict | list):
        return ""
    if isinstance(value, str):
        return f"'{printable(value, limit)}'"
    return "true" if value is True else "false" if value is False else "(nothing)" if value is None else printable(str(value), limit)


def printable(text: str, limit: int = 60) -> str:
    """``text`` on one line of at most ``limit`` characters, with whatever a terminal would act on escaped."""
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def nearest(word: Any, words: Iterable[str]) -> str | None:
    """The one of ``words`` a person most likely meant by ``word``, or None when none is close."""
    known = list(words)
    close = difflib.get_close_matches(str(word)[:64].lower(), [each.lower() for each in known], n=1, cutoff=0.6)
    return next((each for each in known if close and each.lower() == close[0]), None)


def did_you_mean(word: Any, words: Iterable[str]) -> str:
    """A hint: the nearest of ``words``, or nothing when none is near."""
    known = list(words)
    close = nearest(word, known)
    return f"did you mean `{close}`?" if close else ""
