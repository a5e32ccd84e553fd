# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile each template and each condition once in a run.

Ansible compiles a template to Python every time that it renders it: for each host, and again for each variable that it refers to. With a
process for every task nothing else would help. In one process the code can be kept; it was a quarter of the controller's work in a deploy.
"""

from __future__ import annotations

import threading
from types import CodeType
from typing import Any

from ansible._internal._templating._jinja_bits import _TEMPLATE_OVERRIDE_FIELD_NAMES, AnsibleEnvironment, _TemplateCompileContext
from jinja2.environment import TemplateExpression

KEPT = 10_000
"""Templates and conditions at most; a deploy of the lab has a tenth of that."""

_codes: dict[tuple[Any, ...], CodeType] = {}
_expression = threading.local()
_compile = AnsibleEnvironment.compile
_compile_expression = AnsibleEnvironment.compile_expression


def _key(kind: str, environment: AnsibleEnvironment, source: str) -> tuple[Any, ...]:
    """Return all that the code of a source depends on: the delimiters and the treatment of backslashes are options of each call."""
    delimiters = tuple(getattr(environment, name) for name in _TEMPLATE_OVERRIDE_FIELD_NAMES)
    return kind, str(source), delimiters, _TemplateCompileContext.current().escape_backslashes


def _keep(key: tuple[Any, ...], code: CodeType) -> CodeType:
    """Keep the code of a source and return it."""
    if len(_codes) >= KEPT:
        _codes.clear()
    _codes[key] = code
    return code


def _compile_once(environment: AnsibleEnvironment, source: Any, *args: Any, **options: Any) -> CodeType:
    """Compile a template, or take the code of before; what is asked for in another way than Ansible does, is compiled."""
    if args or options:
        return _compile(environment, source, *args, **options)
    if not isinstance(source, str):
        # The syntax tree of an expression, which its compile_expression has just made.
        code, key = _compile(environment, source), getattr(_expression, "key", None)
        return _keep(key, code) if key else code
    key = _key("template", environment, source)
    return _codes.get(key) or _keep(key, _compile(environment, source))


def _compile_expression_once(environment: AnsibleEnvironment, source: str, undefined_to_none: bool = True) -> TemplateExpression:
    """Compile an expression, or take the code of before."""
    key = _key("expression", environment, source)
    if code := _codes.get(key):
        template = environment.template_class.from_code(environment, code, environment.make_globals(None), None)
        return TemplateExpression(template, undefined_to_none)
    _expression.key = key
    try:
        return _compile_expression(environment, source, undefined_to_none)
    finally:
        _expression.key = None


def install() -> None:
    """Have Ansible keep what it compiles, unless it writes the code down for a debugger."""
    if not AnsibleEnvironment._debuggable_template_source:
        AnsibleEnvironment.compile = _compile_once
        AnsibleEnvironment.compile_expression = _compile_expression_once


def remove() -> None:
    """Have Ansible compile as it does of itself, and forget the codes."""
    AnsibleEnvironment.compile = _compile
    AnsibleEnvironment.compile_expression = _compile_expression
    _codes.clear()
