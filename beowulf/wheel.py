"""Take the collections this project needs out of the wheel of the `ansible` distribution."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import yaml

# What a collection needs to work, and its licences; no tests, documentation or developer's tools.
KEPT = ("meta/", "plugins/", "playbooks/", "roles/", "LICENSE", "COPYING", "PSF", "MANIFEST.json", "README.md")


class CollectionsError(Exception):
    """The wheel does not hold what collections/requirements.yml asks for."""


def wanted(requirements: Path) -> dict[str, str]:
    """Return the names and versions listed in a Galaxy requirements file."""
    entries = yaml.safe_load(requirements.read_text(encoding="utf-8"))["collections"]
    return {entry["name"]: str(entry["version"]) for entry in entries}


def is_kept(name: str, prefix: str) -> bool:
    """Say whether a member of the wheel belongs to the collection and is worth keeping."""
    return name.startswith(prefix) and name.removeprefix(prefix).startswith(KEPT)


def extract(wheel: Path, requirements: Path, destination: Path) -> int:
    """Put the wanted collections under `destination`, replacing it as a whole; return the number of files."""
    fresh = destination.with_name(destination.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    count = 0
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for collection, version in wanted(requirements).items():
            prefix = f"ansible_collections/{collection.replace('.', '/')}/"
            members = [name for name in names if is_kept(name, prefix)]
            if not members:
                raise CollectionsError(f"{wheel.name} does not carry the collection {collection}")
            found = json.loads(archive.read(prefix + "MANIFEST.json"))["collection_info"]["version"]
            if found != version:
                raise CollectionsError(f"{wheel.name} carries {collection} {found}, not {version}")
            archive.extractall(fresh, members)
            count += len(members)
    shutil.rmtree(destination, ignore_errors=True)
    fresh.rename(destination)
    return count


def main(wheel_folder: str, requirements: str, destination: str) -> int:
    """Run `python -m beowulf.wheel WHEEL_FOLDER REQUIREMENTS DESTINATION` for ./bootstrap."""
    wheels = sorted(Path(wheel_folder).glob("ansible-*.whl"))
    if not wheels:
        print(f"no ansible wheel in {wheel_folder}", file=sys.stderr)
        return 1
    try:
        extract(wheels[-1], Path(requirements), Path(destination))
    except (CollectionsError, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
