# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rack file, from path to inventory: `load_rack` reads and checks, `derive` computes, `rack_schema` describes.

Nothing in here needs Ansible or the network; the operator's tasks use it as the inventory plugin does.
"""

from __future__ import annotations

import os
from typing import Any

from pydantic import ValidationError

from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_derive import Inventory, derive
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_problem import Problem, RackError, Refused, nearest, show
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_rules import Report, check_file, check_relations
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_schema import Model, Rack, rack_schema, salvage
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_source import Loc, read_source, want_text
from ansible_collections.beowulf.cluster.plugins.plugin_utils.rack_values import place

__all__ = ["Inventory", "Problem", "Rack", "RackError", "check_place", "derive", "load_rack", "rack_schema"]


def load_rack(path: str | os.PathLike[str]) -> Rack:
    """Read the rack file at ``path`` and check it against every rule.

    Returns the `Rack`. Raises `RackError` with all of the file's problems, one for each mistake, in the order of the file.
    """
    source = read_source(path)
    report = Report(source)
    check_file(report)
    try:
        rack = Rack.model_validate(source.data)
    except ValidationError as exc:
        _report_structure(report, exc)
        rack = salvage(Rack, source.data)
    check_relations(report, rack)
    if report.problems:
        raise RackError(report.sorted())
    rack._path = os.fspath(path)
    return rack


def check_place(rack: Rack) -> None:
    """Raise `RackError` when commands could not use the paths of the project, which is the folder above the one with the rack file."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(rack.path)))
    if found := place(home):
        rule = f"is in the project {show(home, 200)}, and SSH or Ansible cannot use a path with {show(found)} in it"
        raise RackError([Problem(rack.path, 0, 0, None, "", "", rule, "move the project to a folder without it, and go on there")])


def _report_structure(report: Report, exc: ValidationError) -> None:
    """Say what pydantic found in the project's words: unknown keys first, for a misspelt key is not also a missing one."""
    errors = exc.errors(include_url=False)
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    missing = [error["loc"] for error in errors if error["type"] == "missing"]
    for loc in unknown:
        if not report.clean((*loc, "[key]")):
            continue
        known = sorted(_known_keys(loc[:-1]) - _value_at(report.source.data, loc[:-1]).keys())
        lost = [str(each[-1]) for each in missing if each[:-1] == loc[:-1]]
        close = nearest(loc[-1], lost) or nearest(loc[-1], known)
        if close in lost:
            missing.remove((*loc[:-1], close))
        hint = f"did you mean `{close}`?" if close else "known keys: " + ", ".join(sorted(_known_keys(loc[:-1])))
        report.add(loc, "is not a key of a rack file" if len(loc) == 1 else "is not a known key here", hint, at_key=True)
    for loc in missing:
        report.add(loc, "is missing", f"add `{loc[-1]}:`" + (f" to {'.'.join(map(str, loc[:-1]))}" if loc[:-1] else ""))
    for error in errors:
        if error["type"] not in ("extra_forbidden", "missing"):
            _report_value(report, error["loc"], error)


def _report_value(report: Report, loc: Loc, error: Any) -> None:
    at_key = loc[-1] == "[key]"
    cause = error.get("ctx", {}).get("error")
    kinds = {"dict_type": "a mapping of keys to values", "model_type": "a mapping of keys to values", "list_type": "a list"}
    if isinstance(cause, Refused):
        report.add(loc, cause.rule, cause.hint, value=error["input"], at_key=at_key)
    else:
        want = kinds.get(error["type"], error["msg"])
        hint = "write it as [one, two]" if error["type"] == "list_type" else "indent its keys below it"
        report.add(loc, f"must be {want}, but {want_text(error['input'])}", hint)


def _known_keys(loc: Loc) -> set[str]:
    """The keys of the mapping at ``loc``."""
    model: type[Model] = Rack
    for part in loc:
        annotation = model.model_fields[part].annotation if part in model.model_fields else model
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        model = next((each for each in candidates if isinstance(each, type) and issubclass(each, Model)), model)
    return set(model.model_fields)


def _value_at(data: Any, loc: Loc) -> dict[str, Any]:
    for part in loc:
        data = data[part]
    return data
