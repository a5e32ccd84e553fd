# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mitogen's strategy, on all processors."""

from __future__ import annotations

DOCUMENTATION = r"""
name: mitogen_linear
short_description: Keep one Python on each node for the whole run, and leave processes where the kernel puts them
version_added: 0.1.0
author: The beowulf.cluster authors
description:
  - Mitogen's C(mitogen_linear) pins the processes of Ansible to processors, and whatever they start inherits that. On a machine with
    two processors all workers share the second one, and so do containers that a play starts, for as long as they live.
  - This is the same strategy without the pins.
requirements:
  - mitogen
"""

import ansible_mitogen.affinity
import ansible_mitogen.loaders
import ansible_mitogen.strategy

ansible_mitogen.affinity.policy = ansible_mitogen.affinity.Policy()


class StrategyModule(ansible_mitogen.strategy.StrategyMixin, ansible_mitogen.loaders.strategy_loader.get("linear", class_only=True)):
    """The tasks of a play one after the other, each on all hosts at once."""
