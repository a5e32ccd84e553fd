#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: ssh_key_proof
short_description: Prove to an SSH authority that this node holds the private keys whose public ones it wants signed
version_added: 0.1.0
description:
  - Signs a challenge with each key. The public key is derived from the private one; no file beside it is read.
  - Only regular files are read, and only their first bytes; nothing is waited for.
  - M(beowulf.cluster.ssh_key_accept) checks the answer on the authority.
options:
  challenge:
    description: A text that nobody has signed before.
    type: str
    required: true
  keys:
    description: The keys, of Ed25519 and not encrypted.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The name under which the authority is to sign it. It is signed with the challenge.
        type: str
        required: true
      key:
        description: File of the private key.
        type: path
        required: true
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Prove that this node holds its host key
  beowulf.cluster.ssh_key_proof:
    challenge: "{{ lookup('ansible.builtin.password', '/dev/null', length=43) }}"
    keys: [{name: host-gamma, key: /etc/ssh/ssh_host_ed25519_key}]
  register: __proof
"""

RETURN = """
proofs:
  description:
    - >-
      For each key that there is its C(name) with the public C(key) and the C(signature), or with a C(problem): V(irregular), V(large),
      V(unreadable) or V(late).
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.beowulf.cluster.plugins.module_utils import ssh_keys


def proof(name, path, challenge):
    """Return what is to be said of one key; None while there is no such file."""
    try:
        private_key = ssh_keys.read_regular(path)
        if private_key is None:
            return None
        return {"name": name, **ssh_keys.prove(private_key, ssh_keys.message(challenge, name))}
    except ssh_keys.UnfitError as error:
        return {"name": name, "problem": str(error)}


def main():
    """Read and sign."""
    module = AnsibleModule(
        argument_spec={
            "challenge": {"type": "str", "required": True, "no_log": False},
            "keys": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "no_log": False,
                "options": {
                    "name": {"type": "str", "required": True},
                    "key": {"type": "path", "required": True, "no_log": False},
                },
            },
        },
        supports_check_mode=True,
    )
    proofs = [proof(one["name"], one["key"], module.params["challenge"]) for one in module.params["keys"]]
    module.exit_json(changed=False, proofs=[one for one in proofs if one])


if __name__ == "__main__":
    main()
