"""The command line on files that are none, and on names that would move the cursor: one line each, nothing hangs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FAILED, USAGE = 1, 2


@pytest.fixture
def pipes(tmp_path) -> Path:
    """Named pipes with the suffixes of all that is read."""
    for suffix in (".json", ".csv", ".npz", ".safetensors", ".txt", ".yaml", ".png", ".tar"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "/dev/zero"], ["/dev/zero", "not a known kind"]),
        (["--data", "pipe.json"], ["pipe.json: cannot be read (a pipe, not a file)"]),
        (["--data", "pipe.csv"], ["pipe.csv: cannot be read (a pipe, not a file)"]),
        (["--data", "pipe.npz"], ["pipe.npz", "give"]),
        (["--features", "pipe.npz"], ["pipe.npz: cannot be read (a pipe, not a file); give"]),
        (["--features", "pipe.safetensors"], ["pipe.safetensors", "give"]),
        (["--features", "/dev/zero"], ["/dev/zero: cannot be read (a device, not a file); give"]),
        (["--data", "sample", "--resource", "descriptions=pipe.json"], ["pipe.json: cannot be read (a pipe"]),
        (["--data", "sample", "--resource", "descriptions=/dev/zero"], ["/dev/zero: cannot be read (a device"]),
    ],
)
def test_devices_and_pipes_are_not_opened(fit, refused, pipes, arguments, words):
    refused(fit(*arguments), FAILED, *words)


@pytest.mark.parametrize("option", ["--config", "--classes"])
@pytest.mark.parametrize("path", ["pipe.yaml", "/dev/zero"])
def test_nor_as_recipes_and_names(fit, refused, pipes, option, path):
    refused(fit("--data", "sample", option, path), USAGE, path)


@pytest.mark.parametrize("path", ["pipe.txt", "/dev/zero"])
def test_nor_as_texts_of_an_index(vladapt, pipes, path):
    outcome = vladapt("index", "--texts", path, "--out", "index")
    assert outcome.code == FAILED and f"--texts {path}: cannot be read" in outcome.error
    assert not (pipes / "index").exists()


def test_a_recipe_that_stands_for_a_billion_values_is_one_line(fit, refused, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    refused(fit("--data", "sample", "--config", "mine.yaml"), USAGE, "--config mine.yaml: cannot be read", "200,000")
    (tmp_path / "mine.json").write_text("[" * 100_000)
    refused(fit("--data", "sample", "--config", "mine.json"), USAGE, "--config mine.json", "nested too deep")


def test_a_long_cell_is_not_printed_whole(fit, refused, colours):
    cell = "\x1b[2J" + "x" * 100_000
    (colours / "labels.csv").write_text(f"image,label\nred/00.png,red\ngreen/00.png,{cell}\n")
    outcome = fit("--data", colours / "labels.csv", "--set", "data.class_names=red,green")
    refused(outcome, FAILED, "labels.csv line 3: label '\\x1b[2Jxxx", "…'")
    assert "\x1b" not in outcome.err


def test_the_limit_of_pixels_is_a_flag(fit, refused, colours):
    refused(fit("--data", colours, "--max-pixels", 500), FAILED, "36 of 36 images cannot be read", "the limit is 500")
    assert fit("--data", colours, "--max-pixels", "1e6").code == 0
    refused_word = fit("--data", colours, "--max-pixels", "many")
    assert refused_word.code == USAGE and "max_pixels=many" in refused_word.error


@pytest.mark.parametrize("command", ["fit", "predict", "index", "search"])
def test_the_limit_of_pixels_stands_in_the_help(vladapt, command, tmp_path):
    (tmp_path / "run.json").write_text('{"domain": "natural", "task": "classification"}')
    of = [tmp_path] if command in ("predict", "search") else ["--domain", "natural"]
    assert "--max-pixels" in vladapt(command, *of, "--help").out


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take text names only")
def test_one_bad_file_among_good_ones_in_predict(vladapt, run, picture, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    good = {"red.png": "red", "e\x1b[31m.png": "green"}
    for name, colour in good.items():
        Image.fromarray(picture(colour, 99)).save(new / name)
    with open(os.fsencode(new) + b"/caf\xe9.png", "wb") as file:
        Image.fromarray(picture("blue", 99)).save(file, "PNG")
    (new / "cut.png").write_bytes((new / "red.png").read_bytes()[:60])
    (new / "text.png").write_text("no image")
    (new / "empty.png").write_bytes(b"")
    (new / "circle.png").symlink_to("circle.png")
    os.mkfifo(new / "pipe.png")
    shown = {"new/red.png", "new/e\\x1b[31m.png", "new/caf\\xe9.png"}
    skipped = {f"new/{name}.png" for name in ("cut", "text", "empty", "circle", "pipe")}

    outcome = vladapt("predict", run, "new", "--json")
    assert outcome.code == 0, outcome.err
    assert {row["id"] for row in outcome.json["predictions"]} == shown
    assert {name for name, _ in outcome.json["skipped"]} == skipped

    outcome = vladapt("predict", run, "new")
    assert outcome.code == 0 and "\x1b" not in outcome.out + outcome.err
    assert all(name in outcome.out for name in shown)
    assert all(f"Skipped: {name}: " in outcome.out for name in skipped)


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take text names only")
def test_a_fit_on_names_of_odd_bytes_writes_its_run(fit, colours, picture, tmp_path):
    odd = os.fsencode(colours) + b"/bl\xe4u"
    os.mkdir(odd)
    for n in range(12):
        with open(odd + b"/%d\xff.png" % n, "wb") as file:
            Image.fromarray(np.roll(picture("blue", n), 1, 2)).save(file, "PNG")
    outcome = fit("--data", colours, "--json")
    assert outcome.code == 0, outcome.err
    run = Path(outcome.json["run"])
    assert "bl\\xe4u" in (run / "report.html").read_text() and "\udce4" not in json.dumps(outcome.json)
    json.loads((run / "run.json").read_text())
