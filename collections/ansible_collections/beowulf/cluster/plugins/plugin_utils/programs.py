# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start programs from a thread of a process whose other threads fork, as Ansible does for each task.

subprocess learns by a pipe that a program has been started: it reads until nobody has the other end any more. A process that is
forked in that moment by another thread inherits this end and keeps it for as long as it lives, as it starts no program itself. Where it
outlives the run (Mitogen's does), the thread would wait for it for good, and the run for the thread.
"""

from __future__ import annotations

import os
import subprocess
import threading
import typing as t

_starting = threading.RLock()
os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)


def start(command: list[str], **options: t.Any) -> subprocess.Popen:
    """Start a program as subprocess.Popen does, with its options and errors; nothing is forked meanwhile.

    A pipe to its standard input would be open in what is forked later: give it that only where nothing forks.
    """
    with _starting:
        return subprocess.Popen(command, **options)


def run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a program that reads nothing, and return how it ended and what it said, as text.

    Raise OSError when it cannot be started, and subprocess.TimeoutExpired when it is not done in `timeout` seconds; it is killed then.
    """
    with start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            shown, complaint = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(command, child.returncode, shown, complaint)
