from __future__ import annotations

import json
import zipfile

import pytest

from beowulf import wheel


@pytest.fixture
def distribution(tmp_path):
    path = tmp_path / "ansible-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("good.one", "not.asked"):
            prefix = f"ansible_collections/{name.replace('.', '/')}/"
            archive.writestr(prefix + "MANIFEST.json", json.dumps({"collection_info": {"version": "1.2.3"}}))
            for member in ("plugins/modules/x.py", "COPYING", "tests/unit/test_x.py", "docs/x.md", "changelogs/x.yml"):
                archive.writestr(prefix + member, "")
    return path


def requirements(folder, name, version):
    path = folder / "requirements.yml"
    path.write_text(f"collections: [{{name: {name}, version: {version}}}]\n")
    return path


def test_only_what_is_asked_for_and_needed_is_taken(distribution, tmp_path):
    destination = tmp_path / "collections"
    (destination / "old").mkdir(parents=True)
    assert wheel.extract(distribution, requirements(tmp_path, "good.one", "1.2.3"), destination) == 3
    files = {str(path.relative_to(destination)) for path in destination.rglob("*") if path.is_file()}
    base = "ansible_collections/good/one/"
    assert files == {base + "MANIFEST.json", base + "plugins/modules/x.py", base + "COPYING"}
    assert not (destination / "old").exists()


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [("no.such", "1.2.3", "does not carry the collection no.such"), ("good.one", "9.9.9", "carries good.one 1.2.3, not 9.9.9")],
)
def test_what_is_not_there_is_refused_and_the_old_stays(distribution, tmp_path, name, version, words):
    destination = tmp_path / "collections"
    destination.mkdir()
    with pytest.raises(wheel.CollectionsError, match=words):
        wheel.extract(distribution, requirements(tmp_path, name, version), destination)
    assert destination.exists()
