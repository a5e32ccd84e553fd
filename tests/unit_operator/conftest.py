from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def operator():
    """Run a task as a user does, and return what came of it."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; sys.path.insert(0, sys.argv[1]); from beowulf.__main__ import main; main(sys.argv[2:])"
        command = [sys.executable, "-P", "-c", code, str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | env)

    return run
