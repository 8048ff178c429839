"""Pages and code are spelt right, and their sentences are those that proselint and a list of our own let pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from proselint.checks import __register__ as CHECKS
from proselint.registry import CheckRegistry
from proselint.tools import LintFile

ROOT = Path(__file__).resolve().parents[2]
CODE = ("core", "adapters", "domains", "examples", "benchmarks", "cli.py", "api.py", "testing.py")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/tutorials/*.md")])
NAMES = "abd,caf,cliper,dfine,dota,fallow,foto,fpr,mot,nce,nd,notin,rouge,uper,vas,unlabled"
"""Names of models, sets and variables, words of other languages, and one column that a published file spells so."""
PASSED_OVER = ("typography", "dates_times", "spelling.consistency", "misc.illogic", "misc.capitalization.days")
"""Checks of what Markdown, sizes, other people's option names and dates of ours are."""
OURS = {
    r"\bnot to be had\b": "is not supported, is not there",
    r"\bleave\b[^.\n]{0,20}\baway\b": "omit",
    r"\b(?:is|are) (?:told|said)\b(?! to)": "is named, is printed",
    r"\b1 (?:images|texts|classes|clips|patients|samples|files|runs|rows)\b(?! )": "one has no plural",
    r"\bvery (?:many|much)\b": "a number",
    r"\butili[sz]e": "use",
    r"\bin order to\b": "to",
    r"\bplease\b": "say what to do",
    r"\bsimply\b": "leave it out",
}
"""What our pages do not say -> what they say instead."""
CheckRegistry().register_many(CHECKS)  # once: the registry keeps them all


def prose(page: str) -> str:
    """A page without its code, addresses, headings and borders of tables, line by line."""
    text = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), page, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`\n]*`|^#.*|\|", lambda code: f"({code.start()})", text, flags=re.MULTILINE)
    return text


def faults(name: str, page: str) -> list[str]:
    """What proselint and our own list find in a page: one line each, with its place."""
    text = prose(page)
    found = [
        f"{name}:{result.pos[0]}: {result.check_result.message}"
        for result in LintFile(name, text).lint()
        if not result.check_result.check_path.startswith(PASSED_OVER)
    ]
    ours = [(match, better) for pattern, better in OURS.items() for match in re.finditer(pattern, text, re.IGNORECASE)]
    return found + [f"{name}:{text.count(chr(10), 0, m.start()) + 1}: '{m[0]}': {better}" for m, better in ours]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_sentences_of_a_page(page):
    assert not faults(page.name, page.read_text(encoding="utf-8"))


def test_words_are_spelt_right(tmp_path):
    assert _misspelt(*CODE, *map(str, PAGES)) == ""
    (tmp_path / "page.md").write_text("It is definately so.\n", encoding="utf-8")
    assert "definitely" in _misspelt(str(tmp_path / "page.md"))


def test_faults_are_found_outside_of_code():
    page = "# So\n\nSo it it is.\n\n```\nit it is told\n```\n\nWhat it costs is told; `is told` is not.\n"
    assert [line.split(":")[1] for line in faults("page", page)] == ["3", "9"]


def _misspelt(*paths: str) -> str:
    command = [
        sys.executable,
        "-m",
        "codespell_lib",
        "--ignore-words-list",
        NAMES,
        "--skip",
        "*.json,*.csv,*.npz,*.txt",
    ]
    return subprocess.run([*command, *paths], cwd=ROOT, capture_output=True, text=True).stdout
