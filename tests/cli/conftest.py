"""The real command line, called in this process, and small data for it."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object on stdout, nothing else there."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("vladapt: "), self.err
        return lines[0]


@pytest.fixture
def vladapt(capsys, monkeypatch, tmp_path):
    """Call the command line in a folder of its own: vladapt("fit", "--shots", 2) -> Outcome."""
    from vladapt.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(ended.value.code, out, err)

    return call


@pytest.fixture
def fit(vladapt, small_clip_spec):
    """`vladapt fit --domain medical` on the small backbone: fit("--data", folder) -> Outcome."""

    def call(*arguments) -> Outcome:
        given = {str(argument) for argument in arguments}
        defaults = {"--domain": "medical", "--backbone": small_clip_spec, "--adapter": "zero-shot", "--shots": 2}
        if "--features" in given:
            defaults.pop("--backbone")  # rows of a file need none, and a given one is refused
        missing = [word for pair in defaults.items() if pair[0] not in given for word in pair]
        return vladapt("fit", *missing, *arguments)

    return call


@pytest.fixture(scope="session")
def picture():
    """picture(colour name, seed) -> (24, 24, 3) uint8, that colour with noise."""

    def draw(colour: str, seed: int) -> np.ndarray:
        noise = np.random.default_rng([sorted(COLOURS).index(colour), seed]).integers(-50, 50, (24, 24, 3))
        return np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)

    return draw


@pytest.fixture
def class_folders(tmp_path, picture):
    """class_folders("red", "green", each=12, name="data") -> a folder of class folders."""

    def make(*colours: str, each: int = 12, name: str = "data") -> Path:
        return draw_folders(tmp_path / name, colours or COLOURS, each, picture)

    return make


def draw_folders(folder: Path, colours, each: int, picture) -> Path:
    for colour in colours:
        (folder / colour).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(picture(colour, i)).save(folder / colour / f"{i:02d}.png")
    return folder


@pytest.fixture
def colours(class_folders) -> Path:
    """Red, green and blue, 12 images each."""
    return class_folders()


@pytest.fixture(scope="session")
def fitted_once(tmp_path_factory, small_clip_spec, picture) -> tuple[Path, Path]:
    """A run of tip-adapter on the colours, and their folder; `run` copies it."""
    from vladapt.cli import main

    place = tmp_path_factory.mktemp("fitted-once")
    data = draw_folders(place / "data", COLOURS, 12, picture)
    where = ("--domain", "medical", "--backbone", small_clip_spec, "--data", data, "--out", place / "runs")
    how = ("--adapter", "tip-adapter", "--set", "adapter.views=0", "--shots", 2, "--json")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, pytest.raises(SystemExit) as ended:
        patch.setenv("VLADAPT_CACHE", str(place / "cache"))
        main(list(map(str, ("fit", *where, *how))))
    assert not ended.value.code
    return Path(json.loads(out.getvalue())["run"]), data


@pytest.fixture
def run(fitted_once, vladapt, colours, tmp_path) -> Path:
    """A run of tip-adapter on the colours, to do with as one likes."""
    made, data = fitted_once
    copied = Path(shutil.copytree(made, tmp_path / "runs" / made.name))
    text = (copied / "run.json").read_text()
    assert str(data) in text
    (copied / "run.json").write_text(text.replace(str(data), str(colours)))
    return copied.resolve()


def files_below(folder: Path) -> set[str]:
    """Names of all files and folders, relative to the folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def refused(tmp_path):
    """refused(outcome, code, *words): one line on stderr with the words, nothing on stdout, no run left."""

    def check(outcome, code: int, *words: str) -> None:
        assert outcome.code == code, outcome.err
        for word in words:
            assert word in outcome.error
        assert outcome.out == "" and "Traceback" not in outcome.err
        assert len(outcome.error) < 600
        assert not (tmp_path / "runs").exists()
        assert not [p for p in tmp_path.rglob("*") if "partial" in p.name or p.name == ".unfinished"]

    return check


@pytest.fixture(scope="module", autouse=True)
def _few_drawings(few_drawings):
    """Of the generic probe."""
