"""`vladapt pretrain` on several sources: what it draws, tells and refuses; killed and resumed on two processes."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Group
from PIL import Image
from safetensors.torch import load_file

from vladapt import DataError
from vladapt.core.contracts.recipe import Recipe
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.recipes.resolve import task_of
from vladapt.core.tasks.pretraining.options import plan_of
from vladapt.core.tasks.pretraining.pairs import read_pair_splits
from vladapt.core.tasks.pretraining.several import read_several
from vladapt.core.training.loading import planned_batches

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220), "yellow": (230, 220, 60)}
KILLED = """
import os, signal, sys
from vladapt.core.training import resume

save = resume.ResumeHook.after_train_iter

def save_and_die(self, runner, *rest, **named):
    save(self, runner, *rest, **named)
    if runner.iter + 1 == 3:
        os.kill(os.getpid(), signal.SIGKILL)

resume.ResumeHook.after_train_iter = save_and_die
from vladapt.cli import main
main(sys.argv[1:])
"""


def table(folder: Path, count: int, first: int = 0) -> Path:
    """So many pairs of coloured images; two of each five are held out."""
    folder.mkdir()
    rows = []
    for i in range(first, first + count):
        colour = list(COLOURS)[i % 4]
        pixels = np.random.default_rng(i).integers(0, 70, (20, 20, 3)).astype(np.uint8)
        pixels[:, : 4 + i % 12] = COLOURS[colour]
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        rows.append([f"{i:02}.png", f"a {colour} area {i}", ("train", "train", "train", "val", "test")[i % 5]])
    with (folder / f"{folder.name}.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["image", "caption", "split"], *rows])
    return folder / f"{folder.name}.csv"


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, Path]:
    """Tables of 30 and 12 pairs to train on."""
    folder = tmp_path_factory.mktemp("sources")
    return table(folder / "web", 50), table(folder / "own", 20, first=60)


@pytest.fixture(scope="module")
def options(small_clip_spec, tmp_path_factory):
    generic = tmp_path_factory.mktemp("generic")
    for name, colour in (("apple", (200, 30, 30)), ("sky", (120, 170, 240))):
        (generic / name).mkdir()
        Image.new("RGB", (16, 16), colour).save(generic / name / "0.png")
    of_towers = ("--backbone", small_clip_spec, "--generic", generic, "--device", "cpu", "--lr", 1e-3, "--seed", 3)
    return [*of_towers, "--batch-size", 8, "--epochs", 1, "--set", "log_every=1"]


def test_each_source_is_drawn_logged_and_scored(vladapt, two, options, tmp_path):
    web, own = two
    done = vladapt("pretrain", *options, "--data", f"{web}=1", "--data", f"{own}=3", "--samples", 64, "--out", "m")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "m" / "training.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and lines[-1]["source.web.samples"] == 16 and lines[-1]["source.own.samples"] == 48
    nothing = {"source.web.samples": 0, "source.own.samples": 0}
    for before, line in zip([nothing, *lines], lines):  # the loss of a step is that of its sources, by their samples
        taken = {name: line[key] - before[key] for name in ("web", "own") for key in [f"source.{name}.samples"]}
        weighted = sum(line[f"source.{name}.loss"] * count for name, count in taken.items() if count)
        assert weighted / 8 == pytest.approx(line["loss"], rel=1e-4)
    assert lines[-1]["val"] == pytest.approx((lines[-1]["source.web.val"] + lines[-1]["source.own.val"]) / 2, abs=1e-6)
    metrics = json.loads((tmp_path / "m" / "metrics.json").read_text())
    assert metrics["test_images"] == 14 and [row["name"] for row in metrics["sources"]] == ["web", "own"]
    assert [row["metrics"]["test_images"] for row in metrics["sources"]] == [10, 4]
    assert [row["samples"] for row in metrics["sources"]] == [16, 48]
    run = json.loads((tmp_path / "m" / "run.json").read_text())
    assert [source["shares"] for source in run["data"]["sources"]] == [[0.25], [0.75]]
    assert "By source" in done.out and "By source" in (tmp_path / "m" / "report.html").read_text()


def draws(two, *sets: str, data=("{}", "{}"), **mixing) -> list[list[tuple[int, int]]]:
    """The (pass, row) of each step of an epoch."""
    plan = plan_of(
        data=[text.format(place) for text, place in zip(data, two)],
        out="m",
        losses=None,
        settings={"batch_size": 8},
        sets=sets,
        mixing=mixing,
    )
    splits = read_several(plan.sources, plan.mixing, lambda path: read_pair_splits(path, 1, {}))
    source = splits.source(CaptionSampler())
    return list(planned_batches(source, plan.settings, 0, lambda line: None))


@pytest.mark.parametrize("change", ["weights=factor", "batch=one", "replacement=yes", "samples=24", "stages", "weight"])
def test_each_option_changes_what_is_drawn(two, tmp_path, change):
    sets, data, mixing = [f"sources.{change}"], ("{}", "{}"), {}
    if change in ("weights=factor", "weight"):
        data, sets = ("{}", "{}=4"), sets if change == "weights=factor" else []
    if change == "stages":
        (tmp_path / "stages.json").write_text('[{"until": 2, "weights": {"web": 1}}, {"weights": [1, 1]}]')
        sets, mixing = [], {"stages": str(tmp_path / "stages.json")}
    changed = draws(two, *sets, data=data, **mixing)
    assert changed != draws(two) and changed == draws(two, *sets, data=data, **mixing)
    if change == "weights=factor":
        assert changed != draws(two, data=data)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--data", "WEB", "--data", "gone.csv=2"], "--data gone.csv: no such file or folder"),
        (["--data", "WEB=0", "--data", "OWN"], "the weight of a source is a number above 0"),
        (["--data", "WEB", "--data", "WEB=2"], "named twice"),
        (["--data", "WEB", "--data", "OWN=9", "--batch-size", 32], "source own: has 12 samples to train on"),
        (["--data", "WEB", "--data", "empty.csv"], "empty.csv"),
        (["--data", "WEB", "--data", "tested.csv"], "0 pairs to train on, 2 to validate and test; give more"),
        (["--data", "WEB", "--data", "OWN", "--stages", "stages.json"], "stages.json: stage 1: there is no source 'x'"),
        (["--data", "WEB", "--data", "OWN", "--set", "sources.weight=1"], "weights"),
        (["--data", "WEB", "--data", "OWN", "--set", "sources.batch=two"], "mixed"),
        (["--data", "WEB", "--data", "OWN", "--set", "data.language=de"], "option language applies to none of the"),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_mixed_is_refused_in_one_line(vladapt, two, options, tmp_path, given, reason):
    (tmp_path / "empty.csv").write_text("image,caption\n")
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8), (int(name[0]), 0, 0)).save(tmp_path / name)
    (tmp_path / "tested.csv").write_text("image,caption,split\n0.png,a,test\n1.png,b,test\n")
    (tmp_path / "stages.json").write_text('[{"until": 2, "weights": {"x": 1}}, {"weights": [1, 1]}]')
    words = [str(word).replace("WEB", str(two[0])).replace("OWN", str(two[1])) for word in given]
    done = vladapt("pretrain", *options, *words, "--out", "m")
    assert done.code in (1, 2) and reason in done.err and len(done.err.strip().splitlines()[-1:]) == 1, done.err
    assert not (tmp_path / "m" / "model.safetensors").exists()


@pytest.mark.thorough
def test_two_processes_killed_and_resumed_end_bit_for_bit_as_if_never_stopped(two, options, tmp_path):
    """Two processes, since draws must not depend on them; killed by a signal that no handler sees."""
    data = ["--data", f"{two[0]}=2", "--data", f"{two[1]}=1"]
    command = ["pretrain", *options, *data, "--samples", 40, "--epochs", 2, "--set", "save_every=2"]
    command = [str(word) for word in command]
    with Group(["-m", "vladapt", *command, "--out", tmp_path / "whole"], cwd=tmp_path) as group:
        assert [each.returncode for each in group.finished()] == [0, 0]
    with Group(["-c", KILLED, *command, "--out", tmp_path / "cut"], cwd=tmp_path) as group:
        assert -signal.SIGKILL in [each.returncode for each in group.finished()]
    with Group(["-m", "vladapt", *command, "--out", tmp_path / "cut", "--resume"], cwd=tmp_path) as group:
        done = group.finished()
        assert [each.returncode for each in done] == [0, 0], done[0].stderr
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    logs = [(tmp_path / name / "training.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert [untimed(line) for line in logs[0]] == [untimed(line) for line in logs[1]]


def untimed(line: str) -> dict:
    timed = ("images_per_second", "data_wait", "memory_gib")
    return {key: value for key, value in json.loads(line).items() if key not in timed}


def test_pairs_of_texts_stand_beside_those_of_images(vladapt, two, options, tmp_path):
    (tmp_path / "words.csv").write_text("en,de\n" + "".join(f"area {n},Feld {n}\n" for n in range(16)))
    data = ["--data", two[0], "--data", "words.csv=1", "--samples", 32]
    mixed = vladapt("pretrain", *options, *data, "--out", "m")
    assert mixed.code == 2 and "source words: holds texts without images" in mixed.err
    done = vladapt("pretrain", *options, *data, "--set", "sources.batch=one", "--out", "m", "--json")
    assert done.code == 0, done.err
    images, texts = done.json["sources"]
    assert images["samples"] == texts["samples"] == 16 and texts["loss"] is not None
    assert images["metrics"]["test_images"] == 10 and not texts["metrics"]


def test_what_another_source_holds_out_is_not_trained_on(two, tmp_path):
    """The same files under other names, of which other rows are held out; in `pretrain` and in `fit`."""
    web, _ = two
    rows = list(csv.reader(web.open()))[1:]
    (tmp_path / "again").mkdir()
    lines = ["image,caption,split"]
    for number, (name, caption, split) in enumerate(rows):
        (tmp_path / "again" / f"x{name}").write_bytes((web.parent / name).read_bytes())
        lines.append(f"x{name},{caption},{'test' if number < 10 else split}")
    again = tmp_path / "again" / "again.csv"
    again.write_text("\n".join(lines))

    plan = plan_of(data=[str(web), str(again)], out="m", losses=None, settings={})
    splits = read_several(plan.sources, plan.mixing, lambda path: read_pair_splits(path, 1, {}))
    ours, copied = splits.parts
    assert (len(ours.train), len(ours.val), len(ours.test)) == (24, 8, 10)
    assert (len(copied.train), len(copied.val), len(copied.test)) == (24, 8, 18)
    note = "web: Left out of train and val because another set holds out a copy of the image: 8."
    assert [each for each in splits.notes if "Left out" in each] == [note]

    recipe = Recipe(task="retrieval", sources={"data": (str(web), str(again))}, adapter={"name": "lit"})
    read = task_of(recipe).read(recipe)
    assert [len(part) for part in read.part("train").parts] == [24, 24] and note in read.notes

    for number in range(2):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(again.with_name(f"own{number}.png"))
    tested = [line.rpartition(",")[0] + ",test" for line in lines[1:]]
    again.write_text("\n".join([lines[0], *tested, "own0.png,a,train", "own1.png,b,train"]))
    with pytest.raises(DataError, match="web: other sets hold out a copy of the image of all its pairs"):
        read_several(plan.sources, plan.mixing, lambda path: read_pair_splits(path, 1, {}))
