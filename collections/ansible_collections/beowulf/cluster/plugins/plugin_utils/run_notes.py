# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What actions of one run of Ansible tell each other about a node. Gone with the run.

Facts would not do: those that an action returns are cached, and would be believed by the next run.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible import constants

if TYPE_CHECKING:
    from ansible.playbook.task import Task


def target(task: Task, task_vars: Mapping[str, Any]) -> str:
    """Return the name of the host on which a task acts, where it is delegated too."""
    return str(task.delegate_to or task_vars["inventory_hostname"])


def place(kind: str, host: str) -> Path:
    """Return the file of the notes of a kind about a host. Ansible makes the folder for a run, for this user alone, and removes it."""
    return Path(constants.DEFAULT_LOCAL_TMP) / f"beowulf-{kind}-{host}.json"


def read(kind: str, host: str) -> list[str] | None:
    """Return what is noted of a kind about a host; None when nothing is."""
    try:
        return json.loads(place(kind, host).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write(kind: str, host: str, names: list[str]) -> None:
    """Note names of a kind about a host, instead of those of before."""
    path = place(kind, host)
    # A process runs several tasks at a time, in threads.
    fresh = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    fresh.write_text(json.dumps(names), encoding="utf-8")
    fresh.replace(path)
