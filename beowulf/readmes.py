"""The README of each role, made from its argument specification by aar-doc."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from beowulf.errors import Failure
from beowulf.process import ROOT, output, tool

TEMPLATE = """<!-- Made from meta/argument_specs.yml by `./bootstrap dev.readmes`: change that file. -->
{{ content }}
"""
SOURCES = ("meta", "defaults")


def roles() -> list[Path]:
    """Return the folders of all roles."""
    return sorted(path.parent.parent for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"))


def readme(role: Path) -> str:
    """Return the README of a role, as its specification has it now. Raises Failure for one that cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        # aar-doc writes into the role; what is asked for here is only the text.
        copy = Path(folder, role.name)
        for name in SOURCES:
            if (role / name).is_dir():
                shutil.copytree(role / name, copy / name)
        command = [tool("aar-doc"), "--output-mode=replace", f"--output-template={TEMPLATE}", str(copy), "markdown"]
        result = output(command, timeout=60, cwd=folder)
        if result.returncode:
            raise Failure(f"{role.name}: {(result.stderr or result.stdout).strip()}")
        return (copy / "README.md").read_text(encoding="utf-8").strip() + "\n"


def write() -> list[str]:
    """Write the READMEs of all roles; return the names of the roles whose README has changed."""
    changed = []
    for role in roles():
        path, text = role / "README.md", readme(role)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(role.name)
    return changed
