#!/usr/bin/python
# Copyright: (c) the beowulf project
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = """
module: ssh_key_accept
short_description: Keep the public keys that an SSH authority is to sign, of those who have proven that they hold the private ones
version_added: 0.1.0
description:
  - Believes nothing that a node says but a well-formed key of Ed25519 with a signature of the challenge that this node was given, made by
    that key (M(beowulf.cluster.ssh_key_proof)). Names come from the caller.
  - A key that is kept under another name is not accepted, so that who takes back what the one was given does not shut out the other.
  - What is not accepted is left as it was and told; the others are kept. Of a key that another one takes the place of, a copy stays.
options:
  folder:
    description: Folder of the authority with a file NAME.pub for each name, and NAME-cert.pub.
    type: path
    required: true
  revoked:
    description: The authority's list of what is revoked, as OpenSSH's KRL.
    type: path
    required: true
  requests:
    description:
      - By the name of each node a list of what it may have signed, each with a C(name). Nodes that do not take part belong here, too.
    type: dict
    required: true
  challenges:
    description: What each node was given to sign, by its name.
    type: dict
    required: true
  answers:
    description: The text of what each node has said, by its name; whatever that is, a list of proofs in JSON is expected.
    type: dict
    required: true
  controllers:
    description: Keys that the caller itself vouches for.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name.
        type: str
        required: true
      public_key:
        description: The public key, without a comment.
        type: str
        required: true
attributes:
  check_mode:
    description: Can run in check mode.
    support: full
author:
  - The beowulf project (@beowulf-cluster)
"""

EXAMPLES = """
- name: Keep the key of gamma
  beowulf.cluster.ssh_key_accept:
    folder: /var/lib/cluster-ca/certificates
    revoked: /var/lib/cluster-ca/public/revoked.krl
    requests: {gamma: [{name: host-gamma}]}
    challenges: {gamma: "{{ challenge }}"}
    answers: {gamma: "{{ hostvars.gamma.__proof.proofs | to_json }}"}
"""

RETURN = """
accepted:
  description: Names whose keys are kept, and are those that were shown.
  returned: always
  type: list
  elements: str
refused:
  description: What was not accepted and why, in sentences, by the name of the node; under the name of a certificate for O(controllers).
  returned: always
  type: dict
renew:
  description: >-
    Names in RV(accepted) with a certificate that is revoked by its number: another one is good, which it would not be where the key or the
    name is revoked.
  returned: always
  type: list
  elements: str
"""

import json
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.beowulf.cluster.plugins.module_utils import ssh_keys


def node_in(name):
    """Return the part of a name of a certificate that may be a node."""
    return name.rpartition("@")[2] if "@" in name else name.removeprefix("host-")


def kept_keys(folder, nodes):
    """Return {name: public key} of what is kept today, but not of nodes that are in the rack no more. What is no key is left out."""
    found = {}
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        name = file.removesuffix(".pub")
        if name == file or name.endswith("-cert"):
            continue
        try:
            words = (ssh_keys.read_regular(os.path.join(folder, file)) or b"").decode("ascii", "replace").split()[:2]
        except ssh_keys.UnfitError:
            continue
        if ssh_keys.PUBLIC_KEY.fullmatch(" ".join(words)):
            found[name] = " ".join(words)
    return {name: key for name, key in found.items() if node_in(name) in nodes or f"host-{node_in(name)}" not in found}


def verdict(name, answers, challenge, kept, folder):
    """Return the key that a node has proven to hold for a name, and why there is none: (key, sentence); (None, None) when it has none."""
    try:
        said = json.loads(answers)
    except (ValueError, TypeError, RecursionError):
        said = None
    if not isinstance(said, list):
        return None, f"{name}: the answer of the node is none that can be read."
    mine = [one for one in said if isinstance(one, dict) and one.get("name") == name]
    if not mine:
        return None, None
    answer = mine[0]
    if "problem" in answer:
        # Its own words are never repeated.
        problem = ssh_keys.PROBLEMS.get(str(answer["problem"]), "has a problem that this version does not know")
        return None, f"{name}: the file of the key {problem}. Remove it there, and deploy."
    key = answer.get("key")
    if not ssh_keys.is_proven(key, answer.get("signature"), ssh_keys.message(challenge, name), folder):
        return None, f"{name}: what was sent is no key of Ed25519 with a signature of the challenge by it."
    # One that has it under its name already goes on: it has proven that it holds the key, as the other one has not, or has as well.
    if kept.get(name) != key and (other := next((other for other, there in kept.items() if there == key), None)):
        return None, f"{name}: the key is that of {other} already. Make another one on one of the two, and deploy."
    return key, None


def keep(module, name, key):
    """Write a key to its file, and put another one that is there aside; say whether that changes anything."""
    place = os.path.join(module.params["folder"], f"{name}.pub")
    content = f"{key}\n".encode()
    try:
        if ssh_keys.read_regular(place) == content:
            return False
    except ssh_keys.UnfitError:
        pass  # put aside below, whatever it is
    if not module.check_mode:
        if os.path.isfile(place):
            module.backup_local(place)
        number, fresh = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(number, "wb") as file:
            file.write(content)
        module.atomic_move(fresh, place)
        os.chmod(place, 0o600)
    return True


def revoked_by_number(module, name):
    """Say whether the certificate for a name is revoked, and neither its key nor its name is."""
    krl, folder = module.params["revoked"], module.params["folder"]

    def asked(file):
        return ssh_keys.ssh_keygen("-Q", "-l", "-f", krl, os.path.join(folder, file))

    try:
        # 1: revoked; 255: there is no such file, or it cannot be read.
        shown = asked(f"{name}-cert.pub")
        named = f"id: {name}" in shown.stdout.decode("utf-8", "replace").splitlines()
        return shown.returncode == 1 and not named and asked(f"{name}.pub").returncode != 1
    except ssh_keys.UnfitError:
        return False


def main():
    """Check all answers, keep what is proven."""
    pair = {"type": "list", "elements": "dict"}
    text = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "revoked": {"type": "path", "required": True},
            "requests": {"type": "dict", "required": True},
            "challenges": {"type": "dict", "required": True},
            "answers": {"type": "dict", "required": True},
            "controllers": {**pair, "default": [], "options": {"name": text, "public_key": {**text, "no_log": False}}},
        },
        supports_check_mode=True,
    )
    requests, answers, challenges = (module.params[name] for name in ("requests", "answers", "challenges"))
    kept = kept_keys(module.params["folder"], requests)
    accepted, refused, changed = [], {}, False
    asked = [(node, one["name"]) for node, names in requests.items() for one in names]
    owners = {name: node for node, name in asked}
    # Two nodes that ask for one name would take it from each other for ever.
    if wrong := [name for node, name in asked if owners[name] != node or not ssh_keys.NAME.fullmatch(name)]:
        module.fail_json(msg=f"two nodes have a certificate of this name, or it is no name: {wrong[0]!r}")
    for node, name in asked:
        if node not in answers:
            continue
        key, why = verdict(name, answers[node], str(challenges.get(node, "")), kept, module.tmpdir)
        if why:
            refused.setdefault(node, []).append(why)
        elif key:
            changed |= keep(module, name, key)
            kept[name] = key
            accepted.append(name)
    for one in module.params["controllers"]:
        name, key = one["name"], one["public_key"]
        if not (ssh_keys.NAME.fullmatch(name) and ssh_keys.PUBLIC_KEY.fullmatch(key)):
            refused[name] = [f"{name!r}: this controller's name, or its public key, cannot be certified: a key of Ed25519 can."]
        elif name in owners and kept.get(name, key) != key:
            refused[name] = [f"{name}: {owners[name]} has the certificate of that name; give this controller another host name."]
        else:
            changed |= keep(module, name, key)
            accepted.append(name)
    # In a check they may not be there yet.
    accepted = [name for name in dict.fromkeys(accepted) if os.path.isfile(os.path.join(module.params["folder"], f"{name}.pub"))]
    module.exit_json(
        changed=bool(changed), accepted=accepted, refused=refused, renew=[name for name in accepted if revoked_by_number(module, name)]
    )


if __name__ == "__main__":
    main()
