# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads YAML into plain data and remembers where everything stood.

The file is composed by libyaml, and the scalars are resolved here: a bare word that YAML 1.1 and YAML 1.2 read
differently (``no``, ``010``, ``12:30``, ``1_000``) becomes a `Trap`, because Ansible and an editor would disagree on it.
Time and memory are bounded: by the file's size, by nesting, and by the number of values after aliases are expanded.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

from yaml.cyaml import CParser
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import Problem, RackError, printable, show

MAX_BYTES = 5_000_000
MAX_VALUES = 500_000
MAX_DEPTH = 12

Loc = tuple[str | int, ...]

_MERGE = "<<"
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\Z")
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]+\Z")
_TRAPS = (  # YAML 1.1 types (https://yaml.org/type/) that YAML 1.2 dropped or reads as something else
    (re.compile(r"(?i:yes|no|on|off)\Z"), "a boolean"),
    (re.compile(r"[-+]?0[0-9_]+\Z"), "an octal number"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+\Z"), "a hexadecimal, octal or binary number"),
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?\Z"), "a number in base 60"),
    (re.compile(r"[-+]?[0-9][0-9_]*\Z"), "a number"),
    (re.compile(r"[-+]?([0-9][0-9_]*)?\.?[0-9_]*([eE][-+]?[0-9]+)?\Z"), "a number"),
    (re.compile(r"[-+]?\.(?i:inf|nan)\Z"), "a number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?\Z"), "a date"),
)
_SUSPECT = re.compile(r"[-+.0-9~]|\Z|(?i:y|n|on|off|true|false)")


@dataclass(frozen=True)
class Trap:
    """A bare word which YAML readers disagree on: ``raw`` as written, ``kind`` as YAML 1.1 takes it."""

    raw: str
    kind: str

    def __str__(self) -> str:
        return printable(self.raw, 40)


class _Composer(CParser):
    """libyaml's composer with implicit tags left empty, so that an explicit tag shows, and with a bound on nesting:
    it recurses in C, where too much of it ends the process."""

    depth = 0

    def resolve(self, kind: type, value: Any, implicit: Any) -> str:
        return ""

    def descend_resolver(self, parent: Any, index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=parent.start_mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1


@dataclass
class Source:
    """A rack file as read: plain ``data``, the mistakes in its YAML, and where each value stands."""

    path: str
    data: dict[str, Any]
    problems: dict[Loc, Problem]
    _root: Node
    _index: dict[int, dict[str, tuple[Node, Node]]] = field(default_factory=dict)

    def locate(self, loc: Loc, at_key: bool = False) -> tuple[int, int]:
        """Line and column (from 1) of the value at ``loc``, or of its key; the nearest parent's when it is absent."""
        node, key = self._root, self._root
        for part in loc:
            found = self._child(node, part)
            if found is None:
                node = key
                break
            key, node = found
        mark = (key if at_key else node).start_mark
        return mark.line + 1, mark.column + 1

    def problem(self, loc: Loc, rule: str, hint: str = "", *, value: Any = None, at_key: bool = False) -> Problem:
        """A `Problem` at ``loc`` (a path of keys and indices); ``value`` is what to show of it (text, or empty)."""
        line, column = self.locate(loc, at_key)
        node = printable(str(loc[1])) if len(loc) > 1 and loc[0] == "nodes" and not str(loc[1]).startswith("[") else None
        parts = ["name" if part == "[key]" else part for part in loc[2 if node else 0 :] if part == "[key]" or "[" not in str(part)]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in parts)
        return Problem(self.path, line, column, node, key.lstrip("."), value or "", rule, hint)

    def _child(self, node: Node, part: str | int) -> tuple[Node, Node] | None:
        """The nodes of a key and of its value in the collection ``node``; merged keys come after its own."""
        if isinstance(node, SequenceNode):
            return (node.value[part],) * 2 if isinstance(part, int) and part < len(node.value) else None
        if not isinstance(node, MappingNode):
            return None
        if id(node) not in self._index:
            own = self._index[id(node)] = {}
            for key, value in node.value:
                if key.value == _MERGE and not getattr(key, "style", None):
                    for merge in value.value if isinstance(value, SequenceNode) else [value]:
                        if isinstance(merge, MappingNode):
                            own.update({each[0].value: each for each in reversed(merge.value) if each[0].value not in own})
            own.update({key.value: (key, value) for key, value in reversed(node.value) if isinstance(key, ScalarNode)})
        return self._index[id(node)].get(str(part))


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read the YAML file at ``path`` (UTF-8, one document, a mapping).

    Raises `RackError` with one problem when there is nothing to go on with: no such file, a directory, unreadable,
    larger than 5 MB, not UTF-8, a byte order mark, a syntax error, empty, an alias bomb or cycle, not a mapping.
    Mistakes that leave the rest readable (duplicate keys, tags, keys that are not text) are in ``Source.problems``.
    """
    name = os.fspath(path)
    text = _read_text(name)
    composer = _Composer(text)
    try:
        root = composer.get_single_node()
    except ReaderError as exc:
        line, column = _line_of(text.encode()[: exc.position].decode(errors="ignore"))
        raise _fatal(name, line, column, f"holds a character that YAML forbids ({exc.reason})", "delete it") from exc
    except MarkedYAMLError as exc:
        raise _syntax_error(name, exc, text) from exc
    finally:
        composer.dispose()
    if root is None or (isinstance(root, ScalarNode) and root.value == "" and not root.style):
        raise _fatal(name, 1, 1, "is empty", "start from inventory/example.rack.yml")
    if not isinstance(root, MappingNode):
        raise _fatal(name, 1, 1, "must be a mapping of keys to values", "start with `plugin: beowulf.cluster.rack`")
    source = Source(name, {}, {}, root)
    source.data = _Converter(source).convert(root, ())
    return source


class _Converter:
    """Turns composed nodes into plain data, once each however often an alias repeats them."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.values = 0
        self.open: set[int] = set()
        self.done: dict[int, tuple[Any, int]] = {}

    def convert(self, node: Node, loc: Loc) -> Any:
        """The data of ``node``; anything it says twice or cannot mean goes to the source's problems."""
        if isinstance(node, ScalarNode):
            self._count(1, node)
            if node.tag:
                return self._tagged(node, loc)
            return node.value if node.style else resolve(node.value)
        identity = id(node)
        if identity in self.done:
            data, size = self.done[identity]
            self._count(size, node)
            return data
        if identity in self.open:
            raise self._stop(node, "contains itself through an alias", "remove the alias")
        if node.tag:
            self._tagged(node, loc)
        self.open.add(identity)
        before = self.values
        self._count(1, node)
        if isinstance(node, SequenceNode):
            data: Any = [self.convert(item, (*loc, index)) for index, item in enumerate(node.value)]
        else:
            data = self._mapping(node, loc)
        self.open.discard(identity)
        self.done[identity] = data, self.values - before
        return data

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        keys: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problem((*loc, "?"), key_node, "a key must be a word, not a mapping or a list")
                continue
            key = key_node.value
            if key == _MERGE and not key_node.style:
                for name, value in self._merge(value_node, loc).items():
                    merged.setdefault(name, value)
                continue
            here = (*loc, key)
            if key in keys:
                first = keys[key].start_mark.line + 1
                line = key_node.start_mark.line + 1
                where = "twice on this line" if first == line else f"already on line {first}"
                self._problem(here, key_node, f"is a duplicate key: it stands {where}", "keep one of the two")
                self.convert(value_node, here)
                continue
            if not key_node.style and not isinstance(resolve(key), str):
                kind = want_text(resolve(key))
                self._problem((*here, "[key]"), key_node, f"must be text, but {kind}", f'quote it: "{key}":')
            keys[key] = key_node
            own[key] = self.convert(value_node, here)
        return merged | own if merged else own

    def _merge(self, node: Node, loc: Loc) -> dict[str, Any]:
        parts = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in parts:
            data = self.convert(part, loc)
            if not isinstance(data, dict):
                self._problem((*loc, _MERGE), node, "`<<` must be followed by an alias of a mapping")
                continue
            for name, value in data.items():
                merged.setdefault(name, value)
        return merged

    def _tagged(self, node: Node, loc: Loc) -> str:
        vault = node.tag == "!vault"
        hint = "secrets belong in the vault (inventory/group_vars/), not in a rack file" if vault else "remove the tag"
        self._problem(loc, node, f"carries the YAML tag `{node.tag[:40]}`, which a rack file does not use", hint)
        return ""

    def _problem(self, loc: Loc, node: Node, rule: str, hint: str = "") -> None:
        mark = node.start_mark
        shown = self.source.problem(loc, rule, hint)
        place = {"line": mark.line + 1, "column": mark.column + 1}
        self.source.problems.setdefault(loc, Problem(**{**shown.__dict__, **place}))

    def _count(self, size: int, node: Node) -> None:
        self.values += size
        if self.values > MAX_VALUES:
            rule = f"expands to more than {MAX_VALUES:,} values"
            raise self._stop(node, rule, "aliases that repeat aliases grow without bound; write the values out")

    def _stop(self, node: Node, rule: str, hint: str = "") -> RackError:
        return _fatal(self.source.path, node.start_mark.line + 1, node.start_mark.column + 1, rule, hint)


def resolve(raw: str) -> Any:
    """The value of a bare (unquoted) scalar: text, int, float, bool, None, or a `Trap`."""
    if not _SUSPECT.match(raw):
        return None if raw in _NULL else raw
    if raw in _NULL:
        return None
    if raw in _BOOL:
        return _BOOL[raw]
    if _INT.match(raw):
        return int(raw)
    if _FLOAT.match(raw) and len(raw) < 40:
        return float(raw)
    for pattern, kind in _TRAPS:
        if pattern.match(raw) and any(letter.isalnum() for letter in raw):
            return Trap(raw, kind)
    return raw


def want_text(value: Any) -> str:
    """Why ``value`` is not text, as the end of a sentence."""
    if isinstance(value, Trap):
        return f"YAML reads a bare {value} as {value.kind}"
    if value is None:
        return "there is nothing"
    kinds = {str: "the text", bool: "the boolean", int: "the number", float: "the number", dict: "a mapping", list: "a list"}
    return f"this is {kinds.get(type(value), 'something else')} {show(value)}".rstrip()


def _read_text(name: str) -> str:
    try:
        with open(name, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as exc:
        raise _fatal(name, 0, 0, "there is no such file", "is the path right?") from exc
    except IsADirectoryError as exc:
        raise _fatal(name, 0, 0, "is a directory, not a rack file", "name the file in it: NAME.rack.yml") from exc
    except OSError as exc:
        raise _fatal(name, 0, 0, f"cannot be read: {exc.strerror}") from exc
    if len(raw) > MAX_BYTES:
        raise _fatal(name, 0, 0, f"is larger than {MAX_BYTES // 1_000_000} MB, which no rack needs")
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise _fatal(name, 1, 1, "begins with a byte order mark (BOM)", "save it as UTF-8 without BOM")
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        line, column = _line_of(raw[: exc.start].decode())
        raise _fatal(name, line, column, "is not UTF-8", "save it as UTF-8") from exc


def _line_of(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _syntax_error(name: str, exc: MarkedYAMLError, text: str) -> RackError:
    mark = exc.problem_mark or exc.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    lines = text.split("\n")
    written = lines[line - 1] if 0 < line <= len(lines) else ""
    hint = "look at this line and the one above it: quotes, brackets, indentation, `key: value`"
    if "nested" in str(exc.problem):
        hint = "a rack file is a few levels deep"
    elif "\t" in written[: column + 1]:
        hint = "YAML forbids tabs in the indentation: use spaces"
    elif "single document" in str(exc.context):
        hint = "a rack file holds one document: remove the second `---`"
    what = "; ".join(str(part) for part in (exc.context, exc.problem) if part)
    return _fatal(name, line, column, f"is not valid YAML: {what}", hint)


def _fatal(name: str, line: int, column: int, rule: str, hint: str = "") -> RackError:
    return RackError([Problem(name, line, column, None, "", "", rule, hint)])
