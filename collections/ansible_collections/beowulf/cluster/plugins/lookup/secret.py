# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of a cluster, for templates and variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
short_description: A secret of the cluster
version_added: 0.1.0
author: The beowulf.cluster authors
description:
  - Returns secrets from the vault of the cluster, C(secrets.yml) in its state folder on the controller, encrypted with
    ansible-vault. The vault id is the name of the cluster.
  - The password of the vault is what C(pass show beowulf/CLUSTER/vault) says, if C(pass) has this entry, else it is in the file
    C(vault-password) beside the vault, of mode 0600.
  - A secret that is missing is generated, together with all others that are missing. The first use makes the vault and its password
    as well. Nothing that exists is changed, and two processes that come at once get the same value.
  - This is so in check mode, too. The vault is the controller's own, and a template that is compared needs its value.
  - The vault is decrypted once in each process, until the file changes.
options:
  _terms:
    description:
      - Names of secrets, V(redis), V(ara_admin), V(ara_secret_key), V(ca) and V(backup).
      - V(vault) is the password of the vault itself.
    type: list
    elements: str
    required: true
  state_dir:
    description: Folder of the cluster's state on the controller.
    type: path
    required: true
    vars:
      - name: rack_state_dir
  cluster:
    description: Name of the cluster.
    type: str
    required: true
    vars:
      - name: rack_cluster
notes:
  - A task whose arguments hold a secret needs C(no_log=true), or it ends up in logs and recordings.
"""

EXAMPLES = r"""
- name: Configure Redis
  ansible.builtin.template:
    src: etc/redis/cluster.conf.j2
    dest: /etc/redis/cluster.conf
    mode: "0640"
  no_log: true
  vars:
    redis_password: "{{ lookup('beowulf.cluster.secret', 'redis') }}"
"""

RETURN = r"""
_raw:
  description: The values, in the order of the names.
  type: list
  elements: str
"""

import typing as t

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.beowulf.cluster.plugins.plugin_utils.secret_store import SecretError, SecretStore


class LookupModule(LookupBase):
    """Secrets of a cluster."""

    def run(self, terms: list[str], variables: dict[str, t.Any] | None = None, **kwargs: t.Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        store = SecretStore(self.get_option("state_dir"), self.get_option("cluster"))
        try:
            return [store.get(term) for term in terms]
        except SecretError as error:
            # The cause would be told once more at each step on the way up.
            raise AnsibleLookupError(str(error)) from None
