# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import lookup_loader
from ansible.template import Templar, trust_as_template

from ansible_collections.beowulf.cluster.plugins.plugin_utils import secret_store


@pytest.fixture
def variables(tmp_path, monkeypatch):
    monkeypatch.setenv("PASSWORD_STORE_DIR", str(tmp_path / "no-store"))
    secret_store._OPENED.clear()
    return {"rack_state_dir": str(tmp_path / "lab"), "rack_cluster": "lab"}


def template(text, variables):
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text))


def test_a_template_gets_the_secret_of_its_cluster(variables, tmp_path):
    text = "{{ lookup('beowulf.cluster.secret', 'redis') }} {{ query('beowulf.cluster.secret', 'ca', 'vault') | join(' ') }}"
    store = secret_store.SecretStore(tmp_path / "lab", "lab")
    assert len(template(text, variables).split()) == 3
    assert (tmp_path / "lab" / "secrets.yml").read_text().startswith("$ANSIBLE_VAULT;1.2;AES256;lab\n")
    assert template(text, variables).split() == [store.get("redis"), store.get("ca"), store.password()]


def test_options_come_before_variables(variables, tmp_path):
    text = f"{{{{ lookup('beowulf.cluster.secret', 'redis', state_dir='{tmp_path}/home', cluster='home') }}}}"
    assert template(text, variables) == secret_store.SecretStore(tmp_path / "home", "home").get("redis")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize(
    ("name", "left_out", "said"),
    [("reddis", None, "Did you mean redis"), ("redis", "rack_cluster", "cluster"), ("redis", "rack_state_dir", "state_dir")],
)
def test_mistakes_are_errors_of_ansibles(variables, name, left_out, said):
    variables.pop(left_out, None)
    with pytest.raises(AnsibleError, match=said):
        lookup_loader.get("beowulf.cluster.secret", loader=DataLoader()).run([name], variables)
