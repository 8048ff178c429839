"""The tutorials: every command of a page runs as it stands there, on the domain's sample or less of it."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from vladapt.core.registry import catalogue

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
NEEDS = {
    "natural": (),
    "medical": (),
    "remote-sensing": ("rasterio", "pyogrio", "shapely"),
    "person": ("faiss",),
    "video": ("av", "faiss"),
    "open-vocab": ("mmdet",),
}
DRAWN = {"natural": 4, "medical": 5, "remote-sensing": 4, "person": 2, "video": 2, "open-vocab": 1}
"""Images per class or person where the page draws more."""
LESS = {
    "natural": ["--shots", "2"],
    "remote-sensing": ["--shots", "2"],
    "video": ["--shots", "1", "--frames", "2"],
    "open-vocab": ["--epochs", "1"],
}
"""What `fit` of a page is given besides, so that it takes seconds; all commands that encode, a small tower."""
ENCODE = ("fit", "compare", "embed", "index")


def commands(page: Path) -> list[list[str]]:
    """Words of each command, in the order of the page."""
    lines = "\n".join(BLOCK.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def in_this_process(words: list[str], monkeypatch) -> None:
    """Run one command, a script or ours, as the shell would.

    Raises:
        SystemExit: ours, always.
    """
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        return
    from vladapt.cli import main

    assert words[0] == "vladapt", words
    main(words[1:])


def test_every_domain_has_a_page():
    ours = {name for name, entry in catalogue.domains().items() if entry.entry_point is None}
    assert {page.stem for page in PAGES.glob("*.md")} == ours == set(NEEDS)


@pytest.mark.thorough(but=("medical", "person", "video"))
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("domain", NEEDS)
def test_every_command_runs(domain, small_clip_spec, tmp_path, monkeypatch, capsys):
    for package in NEEDS[domain]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    for words in commands(PAGES / f"{domain}.md"):
        if words[:2] == ["python", "examples/sample_folder.py"]:
            words = [*words[:4], str(DRAWN[domain])]
        elif words[0] == "python":
            words = [*words[:-1], "800"]
        elif words[1] in ENCODE and "--features" not in words:
            words += ["--backbone", small_clip_spec, *(LESS.get(domain, []) if words[1] == "fit" else [])]
        runs = sorted(Path("runs").glob("*/run.json"), key=lambda file: file.stat().st_mtime_ns)
        words = [word.replace("runs/RUN", str(runs[-1].parent)) if "runs/RUN" in word else word for word in words]
        capsys.readouterr()
        try:
            in_this_process(words, monkeypatch)
        except SystemExit as ended:
            assert not ended.code, (words, capsys.readouterr().err)
        promised = [words[i + 1] for i, word in enumerate(words) if word in ("--out", "--html")]
        assert [name for name in promised if not Path(name).exists()] == [], words
