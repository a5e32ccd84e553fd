"""What is shown of what nodes say: a terminal acts on none of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO


def plain(text: str) -> str:
    """Return a text of which a terminal does nothing but show it: plain of plugin_utils/progress_lines.py."""
    from ansible_collections.beowulf.cluster.plugins.plugin_utils import progress_lines

    return progress_lines.plain(text)


def plain_data(value: Any) -> Any:
    """Return data with every text in it plain."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain_data(key): plain_data(each) for key, each in value.items()}
    return [plain_data(each) for each in value] if isinstance(value, list | tuple) else value


class Plain:
    """A stream that writes plain texts to another one, `stream`, which has the rest of its methods."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        self.stream.write(plain(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Have all that this process prints while the body runs plain; what programs print that it starts is their own."""
    with contextlib.redirect_stdout(Plain(sys.stdout)), contextlib.redirect_stderr(Plain(sys.stderr)):
        yield
