"""Ask a node several questions over one connection."""

from __future__ import annotations

from collections.abc import Mapping


def script(questions: Mapping[str, str]) -> str:
    """Return the shell script that a node is asked with."""
    # A file may end without an end of its last line.
    return "\n".join(f"echo '== {name}'\n{{ {command} ; }} 2>/dev/null\nprintf '\\n=! %s\\n' $?" for name, command in questions.items())


def answers(text: str) -> tuple[dict[str, str], list[str]]:
    """Take a node's answers apart; return them by question, and the questions whose command failed."""
    found: dict[str, list[str]] = {}
    failed: list[str] = []
    name, current = "", []
    for line in text.splitlines():
        if line.startswith("== "):
            name = line[3:]
            current = found.setdefault(name, [])
        elif line.startswith("=! "):
            failed += [name] if line != "=! 0" else []
        else:
            current.append(line)
    return {name: "\n".join(lines).strip("\n") for name, lines in found.items()}, failed
