"""Pages that are written by hand for users stay short enough to be read; words of code are counted too."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = {"api.md", "curators.md", "options.md", "losses.md", "parity.md"}
APART = {"measurements", "notebooks"}
FOR_CONTRIBUTORS = {"architecture.md"}
MOST_WORDS = 45_000


def pages(docs: Path) -> list[Path]:
    written = (
        page for page in docs.rglob("*.md") if page.relative_to(docs).as_posix() not in GENERATED | FOR_CONTRIBUTORS
    )
    return [docs.parent / "README.md", *(page for page in written if page.relative_to(docs).parts[0] not in APART)]


def words(docs: Path) -> int:
    return sum(len(page.read_text(encoding="utf-8").split()) for page in pages(docs))


def test_pages_for_users_are_few_words_in_all():
    assert words(DOCS) <= MOST_WORDS, "shorten a page, or move what was measured to docs/measurements"


def test_what_is_measured_or_generated_does_not_count(tmp_path):
    docs = tmp_path / "docs"
    for name, text in {
        "../README.md": "a b",
        "page.md": "one two",
        "tutorials/one.md": "`x y`\n",
        "losses.md": "many many",
        "measurements/page.md": "many many",
    }.items():
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(text, encoding="utf-8")
    assert words(docs) == 6
    assert all((DOCS / name).exists() for name in (*GENERATED, *APART, *FOR_CONTRIBUTORS))
