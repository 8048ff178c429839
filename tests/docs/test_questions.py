"""Five questions of new users: each is answered from the home page in at most two clicks and one command."""

import re
from pathlib import Path

import pytest

from vladapt.core.registry import catalogue

DOCS = Path(__file__).parents[2] / "docs"
CLICKS = 2
QUESTIONS = {
    "a folder of photos": r"^vladapt fit \S*photos",
    "scans with patients": r"^vladapt fit --domain medical --data",
    "stored features": r"^vladapt fit .*--features \S+",
    "a model to deploy": r"^vladapt export \S+",
    "a method of your own": r"^vladapt fit .*--adapter text-mean\b",
}
"""A row of the home page -> the command that answers it."""


def links_of(page: Path) -> list[Path]:
    """The pages that a page links to."""
    return links_in(page.read_text(encoding="utf-8"), page)


def links_in(text: str, page: Path) -> list[Path]:
    named = re.findall(r"(?<!!)\[[^]]*\]\(([^)#:\s]+\.md)(?:#[^)]*)?\)", text)
    return [path for name in dict.fromkeys(named) if (path := (page.parent / name).resolve()).is_file()]


def answers(page: Path, command: str) -> bool:
    """Whether a code block of a page has the command."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return any(re.search(command, block, re.MULTILINE) for block in blocks)


@pytest.mark.parametrize(("question", "command"), QUESTIONS.items())
def test_two_clicks_from_home_a_command_answers_it(question, command):
    home = DOCS / "README.md"
    rows = [line for line in home.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {question} |")]
    assert len(rows) == 1, f"the home page has no row '{question}'"
    pages = links_in(rows[0], home)
    assert pages, f"the row '{question}' links to nothing"
    for _ in range(CLICKS - 1):
        if any(answers(page, command) for page in pages):
            return
        pages = [linked for page in pages for linked in links_of(page)]
    assert any(answers(page, command) for page in pages), (
        f"no page within {CLICKS} clicks of '{question}' has {command}"
    )


def test_a_page_without_the_command_does_not_answer(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("vladapt export RUN\n\n```\nvladapt fit ./photos\n```\n", encoding="utf-8")
    assert not answers(page, QUESTIONS["a model to deploy"]) and answers(page, QUESTIONS["a folder of photos"])


def test_a_method_of_ones_own_is_none_of_ours():
    """`text-mean` is written, packaged and fitted on the page that shows how to add a method."""
    assert "text-mean" not in catalogue.adapters()
    page = DOCS.parent / "CONTRIBUTING.md"
    assert answers(page, r"^text-mean = ") and answers(page, QUESTIONS["a method of your own"])
