"""Links between pages lead somewhere, pages are in the site's list, and the site builds where mkdocs is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)
ON_OTHER_PLACES = re.compile(r"[a-z]+://|mailto:")


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of the headings: lower case, blanks to dashes, other signs left out, repeats numbered."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if not n else f"{slug}-{n}" for slug, repeats in found.items() for n in range(repeats + 1)}


def broken_links(page: Path) -> list[str]:
    """Links to files or headings that are not there, or that lie outside of the repository."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if ON_OTHER_PLACES.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        there = target.is_relative_to(ROOT) and target.exists()
        if not there or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A, b `c`!\n[x](#a-b-c) [y](#other) [z](none.md) [w](https://a.b/c)\n```\n[v](none.md)\n```\n")
    assert broken_links(page) == ["#other", "none.md"]


def test_every_page_is_in_the_list_of_the_site():
    listed = re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    ours = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert len(listed) == len(set(listed)) and ours <= set(listed)
    assert [name for name in listed if not (DOCS / name).is_file() and not (ROOT / name).is_file()] == []


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        links = LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
        todo += [page.parent / link.partition("#")[0] for link in links if ".md" in link and "://" not in link]
    assert {page.resolve() for page in PAGES} <= reached


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; `make docs` installs it")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed; `make docs` installs it")
    pytest.importorskip("material", reason="mkdocs-material is not installed; `make docs` installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "runs" / "index.html").is_file()
    assert "<code>--val-shots N|all|none</code>" in (tmp_path / "site" / "options" / "index.html").read_text()
