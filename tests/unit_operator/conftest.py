from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from beowulf import cluster, first_contact

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def program() -> Callable[[Path], ModuleType]:
    """Load a program that a role installs, which imports what lies beside it."""

    def load(path: Path) -> ModuleType:
        name = path.stem.replace("-", "_")
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        return module

    return load


@pytest.fixture
def operator():
    """Run a task as a user does, and return what came of it."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; sys.path.insert(0, sys.argv[1]); from beowulf.__main__ import main; main(sys.argv[2:])"
        command = [sys.executable, "-P", "-c", code, str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | env)

    return run


@pytest.fixture
def boards(tmp_path, monkeypatch):
    """The folder of a project with the rack file of real machines, inventory/home.rack.yml, and nothing else in it."""
    (tmp_path / "inventory").mkdir()
    shutil.copy(ROOT / "inventory/example.rack.yml", tmp_path / "inventory/home.rack.yml")
    monkeypatch.setattr(cluster, "ROOT", tmp_path)
    monkeypatch.setattr(cluster, "INVENTORY", tmp_path / "inventory")
    monkeypatch.setattr(first_contact, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def home(boards):
    """A cluster of real machines."""
    return cluster.Cluster("home")
