# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain pytest has no collection loader; `ansible-test` brings its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.plugins.loader import init_plugin_loader

COLLECTIONS = Path(__file__).resolve().parents[5]

if not any(type(finder).__name__ == "_AnsibleCollectionFinder" for finder in sys.meta_path):
    init_plugin_loader([str(COLLECTIONS)])


@pytest.fixture(scope="session")
def racks() -> Path:
    """The folder of good and bad rack files."""
    return COLLECTIONS.parent / "tests" / "racks"
