"""The documents: every link leads somewhere, and the index has every guide."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and GitLab make them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(document):
    text = re.sub(r"`[^`\n]*`", "", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{target}: there is no such file"
        assert not anchor or anchor in anchors(path), f"{target}: there is no such heading"


def test_the_index_has_every_guide():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md" and f"]({path.name})" not in index] == []


def test_the_first_page_is_short():
    """It is for the first ten minutes; everything else is a guide."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_documents_name_the_plugins_that_there_are():
    """And the collection's own page names all of them."""
    collection = ROOT / "collections/ansible_collections/beowulf/cluster"
    kinds = ("inventory", "cache", "callback", "lookup", "filter", "modules", "strategy")
    there = {path.stem for kind in kinds for path in (collection / "plugins" / kind).glob("[a-z]*.*") if path.suffix in (".py", ".yml")}
    named = {document: set(re.findall(r"`beowulf\.cluster\.(\w+)`", document.read_text(encoding="utf-8"))) for document in DOCUMENTS}
    assert {str(document): names - there for document, names in named.items() if names - there} == {}
    assert there - named[collection / "README.md"] == set()
