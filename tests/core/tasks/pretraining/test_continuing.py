"""One set after the other: what each method trains with, what is measured after each, stopped and resumed."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vladapt import ConfigError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.tasks.pretraining import continuing
from vladapt.core.tasks.pretraining.continuing import (
    ContinualFolder,
    continue_pretraining,
)
from vladapt.core.tasks.pretraining.options import continual_plan_of
from vladapt.core.tasks.pretraining.pretrain import run_plan
from vladapt.core.tasks.retrieval.scoring import evaluate_retrieval

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220)}
SETS = "abc"


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, str]:
    """Three sets of 16 images: halves of a colour, which each set calls by words of its own."""
    paths = {}
    for number, name in enumerate(SETS):
        folder = tmp_path_factory.mktemp(f"set_{name}")
        rows = []
        for i in range(16):
            colour, side = list(COLOURS)[i % 3], i // 3 % 2
            pixels = np.random.default_rng([number, i]).integers(0, 70, (16, 16, 3)).astype(np.uint8)
            pixels[:, 8 * side : 8 * side + 8] = COLOURS[colour]
            Image.fromarray(pixels).save(folder / f"{i}.png")
            rows.append([f"{i}.png", f"{name} {colour} {('left', 'right')[side]} {i}", "test" if i >= 10 else "train"])
        with (folder / f"{name}.csv").open("w", newline="") as handle:
            csv.writer(handle).writerows([["image", "caption", "split"], *rows])
        paths[name] = str(folder / f"{name}.csv")
    return paths


@pytest.fixture(scope="module")
def generic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generic")
    for name in ("apple", "sky"):
        (folder / name).mkdir()
        Image.new("RGB", (16, 16), (200, 30, 30) if name == "apple" else (120, 170, 240)).save(folder / name / "0.png")
    return str(folder)


@pytest.fixture(scope="module")
def plan_to(sets, generic, small_clip_spec, tmp_path_factory):
    """method -> a plan of sets a and b in a folder of its own."""

    def make(method: str = "none", then: str = "b", options=(), settings=None, **rest):
        out = str(tmp_path_factory.mktemp("chain") / "out")
        return continual_plan_of(
            data=sets["a"],
            then=[sets[name] for name in then],
            continual=method,
            losses=rest.pop("losses", None),
            settings={"epochs": 1, "batch_size": 5, "lr": 1e-3, "seed": 3, **(settings or {})},
            sets=list(options),
            out=out,
            backbone=small_clip_spec,
            generic=generic,
            device="cpu",
            **rest,
        )

    return make


@pytest.fixture(scope="module")
def plain(plan_to):
    """Sets a and b by plain fine-tuning, with weights between start and end."""
    plan = plan_to("none", wise_ft=0.25)
    return plan, continue_pretraining(plan)


def weights(path):
    return load_file(path)


def test_all_sets_are_measured_after_each(plain, sets):
    plan, done = plain
    remembered = done.metrics["remembered"]
    assert remembered["sets"] == ["a", "b"]
    assert [stage["after"] for stage in remembered["stages"]] == ["before", "a", "b", "wise-ft 0.25"]
    trained = [f"{plan.first.out}/after-{n}/model.safetensors" for n in (1, 2)]
    for stage, spec in enumerate([plan.first.backbone, *trained]):
        backbone = load_backbone(spec, device="cpu")
        for number, name in enumerate(("a", "b")):
            read = continuing.read_splits(plan.first, sets[name], continuing.Reporter(quiet=True))
            scores = evaluate_retrieval(backbone, read.test, split=None).metrics
            told = remembered["stages"][stage]["sets"][number]
            for k in (1, 5, 10):
                both = [scores[side][f"r{k}"] for side in ("image_to_text", "text_to_image")]
                assert told[f"r{k}"] == pytest.approx(sum(both) / 2)
                assert told[f"text_to_image/r{k}"] == pytest.approx(both[1])
    assert all("top1" in stage["generic"] for stage in remembered["stages"])
    r1 = [[each["r1"] for each in stage["sets"]] for stage in remembered["stages"]]
    assert remembered["backward_transfer"]["value"] == pytest.approx(r1[3][0] - r1[1][0])


def test_each_set_starts_where_the_last_ended(plain):
    """The stages are those of `pretrain`, one after the other."""
    plan, done = plain
    out = ContinualFolder(done.model.parent)
    alone = replace(plan.stage(1, str(out.of_set(1) / "model.safetensors"), out.path.parent / "alone"))
    again = run_plan(alone, False, continuing.Reporter(quiet=True))
    ours, theirs = weights(out.of_set(2) / "model.safetensors"), weights(again.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_wise_ft_lies_between_start_and_end(plain, small_clip_spec):
    _, done = plain
    start = load_backbone(small_clip_spec, device="cpu").model.state_dict()
    end, ours = weights(done.model.parent / "after-2" / "model.safetensors"), weights(done.model)
    for name, value in ours.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name], atol=1e-6, rtol=1e-5)


def test_the_folder_says_what_was_done(plain):
    _, done = plain
    folder = done.model.parent
    info = json.loads((folder / "run.json").read_text())
    assert info["continual"]["method"] == "none" and info["data"]["name"] == "a then b" and info["steps"] == 4
    assert info["data"]["splits"] == {"a, train": 10, "a, test": 6, "b, train": 10, "b, test": 6}
    page = (folder / "report.html").read_text()
    assert "Backward transfer" in page and "R@5 of each set after each stage" in page
    assert not (folder / "plan.json").exists() and "remembered" in json.loads((folder / "metrics.json").read_text())
    assert [row["set"] for row in json.loads((folder / "history.json").read_text())] == [1, 2]
    assert "after b" in _text(continuing.SetsRemembered.from_json(done.metrics["remembered"]).table())


def _text(table) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


class Stop(Exception):
    """In place of a kill."""


def test_killed_in_the_second_set_it_goes_on_bit_for_bit(plan_to, monkeypatch):
    from vladapt.core.training.resume import ResumeHook

    whole = continue_pretraining(plan_to("ctp"))
    plan, save, begun = plan_to("ctp", options=["save_every=1"]), ResumeHook.after_train_iter, []

    def save_and_stop(self, runner, *rest, **named):
        save(self, runner, *rest, **named)
        begun.append(self)
        if begun[0] is not self and runner.iter == 0:  # after the first step of the second set
            raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(ResumeHook, "after_train_iter", save_and_stop)
        continue_pretraining(plan)
    with pytest.raises(ConfigError, match="add --resume"):
        continue_pretraining(plan)
    with pytest.raises(ConfigError, match="begun with other settings"):
        other = replace(plan.first, settings=replace(plan.first.settings, lr=1e-4))
        continue_pretraining(replace(plan, first=other), resume=True)
    done = continue_pretraining(plan, resume=True)
    ours, theirs = weights(done.model), weights(whole.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert done.metrics == whole.metrics
    assert continue_pretraining(plan, resume=True).finished_before
