"""The examples of CONTRIBUTING.md run as they stand there, as an installed third-party package."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"`(?P<file>[\w.]+)`[^`\n]*:\n\n```\w+\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def plug_in(tmp_path_factory) -> Path:
    """The files of CONTRIBUTING.md, laid out as pip would install them."""
    folder = tmp_path_factory.mktemp("plug-in")
    blocks = {m["file"]: m["text"] for m in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))}
    modules = ("text_mean.py", "stripes.py", "hardest_pair.py", "cell_colours.py", "test_stripes.py")
    assert set(blocks) == {*modules, "pyproject.toml"}
    for name in modules:
        (folder / name).write_text(blocks[name])
    info = folder / "vladapt_stripes-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vladapt-stripes\nVersion: 0.1\n")
    groups = re.findall(r'\[project\.entry-points\."(.*?)"\]\n(.*?)\n\n', blocks["pyproject.toml"], re.DOTALL)
    text = "\n".join(f"[{group}]\n{lines}" for group, lines in groups).replace('"', "")
    (info / "entry_points.txt").write_text(text)
    return folder


def run(plug_in: Path, *arguments: str):
    path = os.pathsep.join([str(plug_in), os.environ.get("PYTHONPATH", "")])
    return forked.run(["-m", "vladapt", *arguments], env={**os.environ, "PYTHONPATH": path})


def test_the_example_names_are_listed(plug_in):
    assert "text-mean" in run(plug_in, "list", "adapters").stdout
    assert "stripes" in run(plug_in, "list", "domains").stdout


def test_the_example_command_runs(plug_in, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    line = re.search(r"^vladapt (fit .*)$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    done = run(plug_in, *line.split(), "--out", str(tmp_path / "runs"), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["adapter"] == "text-mean" and summary["domain"] == "stripes"
    assert summary["adapted"]["accuracy"] > 0.9


def test_the_example_backbone_is_fitted(plug_in, tmp_path):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    line = re.search(r"^vladapt (fit .*--backbone cell-colours.*)$", page, re.MULTILINE)[1]
    done = run(plug_in, *line.split(), "--out", str(tmp_path / "runs"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["backbone"] == "cell-colours:4"


def test_the_example_judgement_is_in_all_that_is_said_of_a_fit(plug_in, tmp_path):
    """In the terminal, metrics.json, the report and `eval`, with its option."""
    pytest.importorskip("efficientnet_lite_pytorch")
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    line = re.search(r"^vladapt (fit .*least_mistakes=.*)$", page, re.MULTILINE)[1]
    done = run(plug_in, *line.split(), "--out", str(tmp_path / "runs"))
    assert done.returncode == 0 and "are mistaken for each other most often" in done.stdout, done.stderr
    (made,) = (tmp_path / "runs").iterdir()
    told = json.loads((made / "metrics.json").read_text())["hardest_pair"]
    assert told == {"classes": ["horizontal", "vertical"], "mistakes": told["mistakes"]}
    assert "The hardest pair" in (made / "report.html").read_text()
    how = ("--split", "train", "--least-mistakes", "0", "--json", "--out", str(tmp_path / "again"))
    again = run(plug_in, "eval", str(made), *how)
    assert again.returncode == 0, again.stderr
    seen = json.loads(again.stdout)
    wrong = round((1 - seen["adapted"]["accuracy"]) * seen["test_images"])
    assert seen["hardest_pair"]["mistakes"] == wrong
    none = run(plug_in, "fit", *line.split()[1:-1], "least_mistakes=-1", "--out", str(tmp_path / "none"))
    assert none.returncode == 2 and "least_mistakes" in none.stderr, none.stderr


def test_the_example_keeps_the_contracts(plug_in):
    path = os.pathsep.join([str(plug_in), os.environ.get("PYTHONPATH", "")])
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(plug_in / "test_stripes.py")]
    done = forked.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=plug_in)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_the_page_on_security_is_linked_and_names_what_there_is():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "(SECURITY.md)" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    from vladapt.core.tasks.config_training.registered import SCOPES

    listed = re.search(r"registries of ([\w, ]+) alone", page)[1].replace(" and ", ", ")
    assert tuple(listed.split(", ")) == SCOPES
