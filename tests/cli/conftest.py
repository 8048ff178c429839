"""The real command line, called in this process, and small data for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
        for colour in colours or COLOURS:
            folder = tmp_path / name / colour
            folder.mkdir(parents=True)
            for i in range(each):
                Image.fromarray(picture(colour, i)).save(folder / f"{i:02d}.png")
        return tmp_path / name

    return make


@pytest.fixture
def colours(class_folders) -> Path:
    """Red, green and blue, 12 images each."""
    return class_folders()


@pytest.fixture
def run(fit, colours) -> Path:
    """A run of tip-adapter on the colours."""
    outcome = fit("--data", colours, "--adapter", "tip-adapter", "--set", "adapter.views=0", "--json")
    assert outcome.code == 0, outcome.err
    return Path(outcome.json["run"]).resolve()


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
