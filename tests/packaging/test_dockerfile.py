"""The image of `vladapt serve`: what it installs is there to install, it copies the package alone, nobody is root."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """(instruction, what follows it), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def only(steps, instruction: str) -> list[str]:
    return [rest for name, rest in steps if name == instruction]


def test_its_extras_are_those_of_the_package(steps):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = next(rest.partition("=")[2] for rest in only(steps, "ARG") if rest.startswith("EXTRAS=")).split(",")
    assert {"serve", "export", "embedded"} <= set(extras) <= set(project["optional-dependencies"])
    assert any('"/source[${EXTRAS}]"' in rest for rest in only(steps, "RUN"))
    needed = dict(re.match(r"([a-z]+)(.*)", each).groups() for each in project["dependencies"])
    torch = next(rest for rest in only(steps, "RUN") if "TORCH_INDEX" in rest)
    assert f'"torch{needed["torch"]}" "torchvision{needed["torchvision"]}"' in torch
    python = next(rest.partition("=")[2] for rest in only(steps, "ARG") if rest.startswith("PYTHON="))
    assert tuple(map(int, python.split("."))) >= tuple(map(int, project["requires-python"].strip(">=").split(".")))


def test_it_serves_as_a_user_of_its_own_and_asks_how_it_is(steps):
    from typer.testing import CliRunner

    from vladapt.cli import build_app

    names = [name for name, _ in steps]
    assert only(steps, "USER") == ["10001"] and names.index("USER") > names.index("RUN")
    assert names.index("ENTRYPOINT") > names.index("USER"), "what runs is not root's"
    program, *words = json.loads(only(steps, "ENTRYPOINT")[0]) + json.loads(only(steps, "CMD")[0])
    assert (program, words) == ("vladapt", ["serve", "/model", "--host", "0.0.0.0"])
    shown = CliRunner().invoke(build_app(["serve"]), ["serve", "--help"], env={"COLUMNS": "200"}).output
    assert all(word in shown for word in words if word.startswith("--"))
    health = only(steps, "HEALTHCHECK")[0]
    assert "http://127.0.0.1:8000/health" in health and only(steps, "EXPOSE") == ["8000"]


def test_what_the_package_is_built_of_is_sent_to_the_builder_and_nothing_else():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def sent(name: str) -> bool:
        kept = True
        for line in lines:
            if fnmatch(name, line.lstrip("!").replace("**/", "*")):
                kept = line.startswith("!")
        return kept

    for name in ("core", "adapters", "domains", "pyproject.toml", "setup.py", "README.md", "LICENSE", "cli.py"):
        assert sent(name) and (ROOT / name).exists()
    assert all(sent(path.name) for path in (*ROOT.glob("*.py"), *ROOT.glob("*.pyi"), ROOT / "py.typed"))
    for name in ("runs", ".git", ".venv", "tests", "core/__pycache__", "data.csv", ".env"):
        assert not sent(name)
