"""The README and what stands around it: short, true to the commands and names that there are, and citable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

import vladapt
from vladapt.core.backbones.specs import find_published
from vladapt.core.registry import catalogue

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^vladapt +([a-z]+)", re.MULTILINE)
MOST_LINES, MOST_BYTES = 120, 150_000


def commands() -> set[str]:
    from vladapt.cli import build_app

    return set(typer.main.get_command(build_app([])).commands)


def test_the_readme_is_short_and_shows_pictures_that_are_small():
    pictures = [ROOT / name for name in re.findall(r"!\[[^\]]+\]\((?!https:)([^)]+)\)", README)]
    assert len(README.splitlines()) <= MOST_LINES and len(pictures) >= 2
    assert all(picture.stat().st_size < MOST_BYTES for picture in pictures)


def test_the_two_commands_are_those_of_the_makefile():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = set(re.findall(r"make (fit|test|docs|dist|pictures)\b", README))
    assert {"fit", "test"} <= told <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/quick-start.md", "docs/deployment.md"])
def test_commands_that_are_shown_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    table = "\n".join(re.findall(r"^\| [a-z, ]+ \| (`.*) \|$", text, re.MULTILINE))
    blocks = "\n".join(re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE))
    shown = {*COMMAND.findall(blocks), *re.findall(r"`vladapt ([a-z]+)", text)}
    shown |= set(re.findall(r"`([a-z]+)`", table)) if page == "README.md" else set()
    assert shown and shown <= commands(), shown - commands()


def test_models_that_are_recommended_are_in_the_table():
    pages = README + GUIDE + (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--backbone (openai[\w-]+|[a-z]+clip[\w-]*|rad-dino)", pages))
    named |= set(re.findall(r"`((?:openai|remoteclip|biomedclip|rad-dino)[\w-]*)`", pages))
    assert len(named) >= 4 and {name for name in named if find_published(name) is None} == set()


def test_methods_of_the_guide_are_there():
    guide = GUIDE.partition("## Then the method")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z][\w-]+)`", guide))
    ours = {name for name, entry in catalogue.adapters().items() if entry.entry_point is None}
    assert len(named & ours) > 12 and named - ours <= {"embedded"}
    domains = set(re.findall(r"^\| \[`([\w-]+)`\]", GUIDE, re.MULTILINE))
    assert domains == {name for name, entry in catalogue.domains().items() if entry.entry_point is None}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert (citation["version"], citation["license"]) == (vladapt.__version__, "Apache-2.0")
    assert all("name" in author or "family-names" in author for author in citation["authors"])


def test_the_workflow_tests_every_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    jobs, project = workflow["jobs"], (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert versions == ["3.10", "3.11", "3.12", "3.13"] and f'requires-python = ">={versions[0]}"' in project
    run = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {"make fit", "make docs", "make dist"} <= set(run) and any(line.startswith("make test") for line in run)
