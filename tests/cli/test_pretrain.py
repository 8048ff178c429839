"""`vladapt pretrain`: what it writes, what changes it, stopped and resumed, on one process and two."""

from __future__ import annotations

import csv
import json
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run, run_ranks
from PIL import Image
from safetensors.torch import load_file

from vladapt.core.errors import INTERRUPTED
from vladapt.core.runtime.reading import sha256_in
from vladapt.core.tasks.pretraining import pretrain

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220), "yellow": (230, 220, 60)}
PLACES = ("left", "right", "top")
KILLED = """
import os, signal, sys
from vladapt.core.training import resume

save = resume.ResumeHook.after_train_iter

def save_and_die(self, runner, *rest, **named):
    save(self, runner, *rest, **named)
    if runner.iter + 1 == 2:
        os.kill(os.getpid(), signal.SIGKILL)

resume.ResumeHook.after_train_iter = save_and_die
from vladapt.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def pairs_csv(tmp_path_factory) -> Path:
    """72 images whose captions name a colour and a side."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for i in range(72):
        colour, place = list(COLOURS)[i % 4], PLACES[i // 4 % 3]
        pixels = np.random.default_rng(i).integers(0, 70, (20, 20, 3)).astype(np.uint8)
        part = {"left": np.s_[:, :10], "right": np.s_[:, 10:], "top": np.s_[:10]}[place]
        pixels[part] = COLOURS[colour]
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        split = "test" if i >= 60 else "val" if i >= 48 else "train"
        rows.append([f"{i:02}.png", f"a {colour} area at the {place}", split])
    with (folder / "pairs.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["image", "caption", "split"], *rows])
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def generic(tmp_path_factory) -> Path:
    """A few images of two classes, so that measuring what is forgotten is quick."""
    folder = tmp_path_factory.mktemp("generic")
    for name, colour in (("apple", (200, 30, 30)), ("sky", (120, 170, 240))):
        (folder / name).mkdir()
        for i in range(3):
            Image.new("RGB", (16, 16), tuple(min(255, part + 5 * i) for part in colour)).save(
                folder / name / f"{i}.png"
            )
    return folder


@pytest.fixture
def options(pairs_csv, generic, small_clip_spec):
    return [
        *("--data", pairs_csv, "--backbone", small_clip_spec, "--generic", generic, "--device", "cpu"),
        *("--epochs", 2, "--batch-size", 16, "--lr", 1e-3, "--seed", 3),
    ]


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def distance(one, other) -> float:
    a, b = weights(one), weights(other)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_it_writes_a_backbone_and_says_what_changed(vladapt, options, tmp_path):
    done = vladapt("pretrain", *options, "--epochs", 6, "--out", "model", "--json")
    assert done.code == 0, done.err
    summary = done.json
    assert summary["adapted"]["text_to_image/r5"] > summary["zero_shot"]["text_to_image/r5"]
    assert summary["losses"] == {"clip": 1.0} and summary["steps"] == 18
    assert {"before", "after"} <= set(summary["generic"])
    written = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "run.json", "metrics.json", "history.json", "log.txt", "report.html"} <= written
    assert not any(name.startswith("stage") for name in written)
    digests = json.loads((tmp_path / "model" / "run.json").read_text())["sha256"]
    assert digests == sha256_in(tmp_path / "model", leave_out=("run.json",))
    assert len(json.loads((tmp_path / "model" / "history.json").read_text())) == 6
    embedded = vladapt(
        "embed",
        "--domain",
        "medical",
        "--backbone",
        "model/model.safetensors",
        "--out",
        "f.npz",
        options[1].parent / "00.png",
    )
    assert embedded.code == 0, embedded.err


def test_what_it_prints_can_be_read(vladapt, options):
    done = vladapt("pretrain", *options, "--out", "model")
    assert done.code == 0
    assert "Epoch 1/2: loss" in done.err and "on val:" in done.err
    assert "image to text: R@1" in done.out and "Generic vocabulary" in done.out
    assert "Model:  model/model.safetensors" in done.out


@pytest.mark.parametrize(
    "change",
    [
        ["--loss", "siglip"],
        ["--loss", "clip=1", "--loss", "neg-clip=0.5"],
        ["--seed", "4"],
        ["--lock", "image"],
        ["--lora", "2"],
        ["--amp", "bf16"],
        ["--set", "layer_decay=0.5"],
        ["--set", "loss.clip.label_smoothing=0.3"],
        ["--set", "image_size=24"],
        ["--set", "captions=first", "--set", "crop_scale=(0.1,0.3)"],
        ["--lock", "image", "--set", "unlock_after=1"],
    ],
    ids=lambda change: " ".join(change),
)
def test_each_option_changes_the_model(vladapt, options, tmp_path, change, plain_model):
    done = vladapt("pretrain", *options, *change, "--out", "other")
    assert done.code == 0, done.err
    other = weights(tmp_path / "other")
    assert any(other[n].shape != v.shape or not torch.equal(other[n], v) for n, v in plain_model.items())


@pytest.fixture(scope="module")
def plain_model(pairs_csv, generic, small_clip_spec, tmp_path_factory):
    """The weights of the plain run."""
    out = tmp_path_factory.mktemp("plain") / "model"
    run(["-m", "vladapt", *command(pairs_csv, generic, small_clip_spec, out)], check=True)
    return weights(out)


def command(pairs, generic, spec, out, *more) -> list[str]:
    fixed = ["--epochs", "2", "--batch-size", "16", "--lr", "1e-3", "--seed", "3", "--device", "cpu"]
    places = ["--data", pairs, "--backbone", spec, "--generic", generic, "--out", out]
    return ["pretrain", *map(str, [*places, *fixed, *more])]


def test_deterministic_is_a_flag_and_on_a_cpu_changes_nothing(vladapt, options, tmp_path, plain_model):
    done = vladapt("pretrain", *options, "--deterministic", "--out", "other")
    assert done.code == 0, done.err
    assert all(torch.equal(weights(tmp_path / "other")[name], value) for name, value in plain_model.items())
    assert json.loads((tmp_path / "other" / "run.json").read_text())["settings"]["deterministic"] is True


@pytest.mark.thorough
def test_micro_batches_and_workers_do_not_change_the_model(vladapt, options, tmp_path, plain_model):
    done = vladapt("pretrain", *options, "--micro-batch-size", 5, "--workers", 2, "--out", "other")
    assert done.code == 0, done.err
    other = weights(tmp_path / "other")
    assert max(float((other[n] - v).abs().max()) for n, v in plain_model.items()) < 1e-4


def test_a_killed_training_goes_on_and_ends_the_same(
    vladapt, pairs_csv, generic, small_clip_spec, tmp_path, plain_model
):
    out = tmp_path / "model"
    start = command(pairs_csv, generic, small_clip_spec, out, "--set", "save_every=1")
    killed = run(["-c", KILLED, *start])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "model.safetensors").exists()
    again = vladapt(*start)
    assert again.code == 2 and "add --resume to continue it" in again.err
    resumed = vladapt(*start, "--resume")
    assert resumed.code == 0, resumed.err
    assert "Resumed at step 2" in resumed.err
    assert all(torch.equal(weights(out)[name], value) for name, value in plain_model.items())
    finished = vladapt(*start, "--resume", "--json")
    assert finished.code == 0 and finished.json["model"] == str(out / "model.safetensors")


def test_a_stopped_training_prints_the_command_that_continues_it(vladapt, options, monkeypatch):
    def stop(self, done, total, values):
        if done == 2:
            raise KeyboardInterrupt

    start = ["pretrain", *options, "--set", "save_every=1", "--out", "model"]
    with monkeypatch.context() as patch:
        patch.setattr(pretrain._EpochLines, "step", stop)
        stopped = vladapt(*start)
    told = stopped.err.strip().splitlines()[-1]
    assert stopped.code == INTERRUPTED and told.endswith(
        f"this continues from there: {shlex.join(['vladapt', *map(str, start), '--resume'])}"
    )
    done = vladapt(*shlex.split(told.partition("there: vladapt ")[2]))
    assert done.code == 0 and "Resumed at step 1" in done.err


def test_two_processes_make_the_model_of_one(vladapt, pairs_csv, generic, small_clip_spec, tmp_path):
    more = ["--set", "optimizer=sgd", "--set", "lr=1e-4", "--epochs", "1"]
    one, two = (command(pairs_csv, generic, small_clip_spec, tmp_path / name, *more) for name in ("one", "two"))
    assert vladapt(*one).code == 0
    ranks = run_ranks(["-m", "vladapt", *two])
    assert [done.returncode for done in ranks] == [0, 0], ranks
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-6
    assert [done.stdout.count("Model:") for done in ranks] == [1, 0]
    assert "[W" not in ranks[0].stderr + ranks[1].stderr


@pytest.mark.thorough
def test_several_teachers_teach_together(vladapt, options, small_clip_spec, tmp_path):
    other = f"{small_clip_spec.partition('@')[0]}@random:1"
    for name, teachers in (("one", [small_clip_spec]), ("two", [small_clip_spec, other])):
        flags = [word for teacher in teachers for word in ("--teacher", teacher)]
        done = vladapt("pretrain", *options, "--epochs", 1, "--loss", "teach-text", *flags, "--out", name)
        assert done.code == 0, done.err
        assert json.loads((tmp_path / name / "run.json").read_text())["teacher"] == ", ".join(teachers)
    assert distance("one", "two") > 1e-6


def test_a_distilled_model_is_a_backbone_like_any_other(vladapt, pairs_csv, generic, small_clip_spec, tmp_path):
    config = json.loads(Path(small_clip_spec.partition(":")[2].partition("@")[0]).read_text())
    config["text_cfg"] |= {"width": 16, "heads": 1, "layers": 1}
    (tmp_path / "student.json").write_text(json.dumps(config))
    data = ["--data", pairs_csv, "--generic", generic, "--device", "cpu", "--epochs", 1, "--batch-size", 16]
    towers = ["--backbone", "open_clip:student.json@random", "--teacher", small_clip_spec]
    done = vladapt("pretrain", "--recipe", "tiny-clip", *data, *towers, "--out", "small")
    assert done.code == 0, done.err
    ran = json.loads((tmp_path / "small" / "run.json").read_text())
    assert ran["losses"] == {"clip": 1.0, "distill": 1.0} and ran["settings"]["clip_grad"] == 5.0
    assert any("of the weights start as the teacher's" in note for note in ran["notes"])
    card = (tmp_path / "small" / "README.md").read_text()
    assert (
        "| teacher |" in card and "\n* Text to image: " in card and "licence" in card and "README.md" in ran["sha256"]
    )
    done = vladapt("fit", "--data", generic, "--backbone", "small", "--shots", 1, "--adapter", "tip-adapter")
    assert done.code == 0, done.err
    done = vladapt("index", generic, "--backbone", "small", "--out", "index")
    assert done.code == 0, done.err
    other = vladapt("pretrain", *data, *towers[:2], "--set", "inherit=yes", "--out", "none")
    assert other.code == 2 and "there is no teacher to start from; give --teacher SPEC" in other.err


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--loss", "clop"], 2, "did you mean clip"),
        (["--loss", "clip=much"], 2, "write NAME or NAME=WEIGHT"),
        (["--loss", "clip", "--loss", "clip=2"], 2, "given twice"),
        (["--set", "lerning_rate=1"], 2, "there is no such setting"),
        (["--set", "loss.siglip.init_bias=1"], 2, "not one of the losses"),
        (["--set", "loss.clip.smoothing=1"], 2, "has no option 'smoothing'"),
        (["--loss", "clip=0"], 2, "--loss clip=0.0: give a weight above 0"),
        (["--data", "nothing.csv"], 1, "nothing.csv"),
        (["--loss", "alip"], 1, "give a column 'synthetic'"),
        (["--loss", "distill"], 1, "--teacher"),
        (["--loss", "teach-text", "--teacher", "none/such"], 2, "unknown backbone 'none/such'"),
        (["--teacher", "embedded"], 2, "--teacher embedded: loss clip has no frozen teacher; omit it"),
        (["--loss", "sdm"], 1, "give a column 'label'"),
        (["--batch-size", "1"], 2, "batch_size"),
        (["--backbone", "no/model.safetensors"], 1, "no such file"),
        (["--generic", "no/folder"], 1, "no/folder"),
        (["--set", "custom_hooks=[{type: NoSuchHook}]"], 2, "NoSuchHook"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_told_in_one_line(vladapt, options, change, code, words):
    given = options[2:] if "--data" in change else options
    done = vladapt("pretrain", *given, *change, "--out", "model")
    assert done.code == code, done.err
    assert words in done.err.strip().splitlines()[-1] and "Measuring" not in done.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--set", "loss.clip.label_smoothing=abc"], "option label_smoothing=abc of loss 'clip' is not usable; give a"),
        (["--set", "lr=fast"], "option lr=fast of the training is not usable; give a number above 0"),
        (["--set", "amp=int8"], "option amp=int8 of the training is not usable; give one of bf16, fp16, or none"),
        (["--set", "checkpointing=perhaps"], "option checkpointing=perhaps of the training .*; give yes or no"),
        (["--set", "image_size=big"], "--set image_size big: give a whole number, 1 to 16384"),
        (["--set", "data.vall=0.2"], "the reader of pairs has no option 'vall'; did you mean val"),
        (["--set", "data.val=much"], "option val=much of the reader of pairs is not usable"),
        (["--loss", "clop"], "unknown loss 'clop'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_option_is_answered_before_anything_is_read(vladapt, change, words):
    """The data and the backbone of this command do not exist."""
    done = vladapt("pretrain", "--data", "nothing.csv", "--backbone", "no/model", *change, "--out", "model")
    assert done.code == 2 and re.search(words, done.error), done.err


HUE = """
from typing import ClassVar

from vladapt import Loss, Output

class Hue(Loss):
    needs: ClassVar = frozenset({"image_features", "hue"})
    outputs: ClassVar = {"hue": Output("where the colour lies", ("B",), "raw", column="hue")}

    def compute(self, out, progress):
        return {"loss": (out["image_features"][:, 0] - out["hue"]).square().mean(), "hue": out["hue"].mean()}
"""


def test_a_loss_of_another_package_gets_its_column(vladapt, options, pairs_csv, tmp_path, monkeypatch):
    info = tmp_path / "site" / "hue-0.1.dist-info"
    info.mkdir(parents=True)
    (info.parent / "hue_loss.py").write_text(HUE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hue\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[vladapt.losses]\nhue = hue_loss:Hue\n")
    monkeypatch.syspath_prepend(str(info.parent))
    rows = list(csv.reader(pairs_csv.read_text().splitlines()))
    told = [[*rows[0], "hue"], *([*row, 0.25] for row in rows[1:])]
    with (tmp_path / "hues.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(told)
    more = ["--set", f"data.root={pairs_csv.parent}", "--loss", "hue", "--out", "model"]
    done = vladapt("pretrain", *options[2:], *more, "--data", "hues.csv")
    assert done.code == 0, done.err
    history = json.loads((tmp_path / "model" / "history.json").read_text())
    assert [row["hue.hue"] for row in history] == pytest.approx([0.25, 0.25])
    lacking = vladapt("pretrain", *options, "--loss", "hue", "--out", "other")
    assert lacking.code == 1 and "'hue' (where the colour lies); the data has none, give a column 'hue'" in lacking.err


def test_a_folder_with_a_model_is_left_alone(vladapt, options, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"precious")
    done = vladapt("pretrain", *options, "--out", "model")
    assert done.code == 2 and "holds a model already" in done.error
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == b"precious"


def test_a_tower_that_nothing_trained_is_a_start(vladapt, options, small_clip_spec, tmp_path):
    config = small_clip_spec.removeprefix("open_clip:").partition("@")[0]
    for seed in (1, 2):
        spec = f"open_clip:{config}@random:{seed}"
        assert vladapt("pretrain", *options, "--backbone", spec, "--epochs", 1, "--out", f"m{seed}").code == 0
    assert distance(tmp_path / "m1", tmp_path / "m2") > 0
