"""One set after the other: what each method trains with, what is measured after each, stopped and resumed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vladapt import ConfigError, DataError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.errors import UnknownNameError
from vladapt.core.metrics.continual import SetRanks
from vladapt.core.tasks.pretraining import continuing
from vladapt.core.tasks.pretraining.continuing import (
    ContinualFolder,
    continue_pretraining,
)
from vladapt.core.tasks.pretraining.options import continual_plan_of
from vladapt.core.tasks.pretraining.pretrain import read_splits, run_plan
from vladapt.core.tasks.pretraining.remembered import BEFORE, SetsRemembered, StageScores
from vladapt.core.tasks.pretraining.replay import STORED
from vladapt.core.tasks.retrieval.scoring import evaluate_retrieval
from vladapt.core.training.settings import TrainingSettings

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
            data=rest.pop("data", sets["a"]),
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
def whole(plan_to):
    """Sets a and b with ctp, and weights between start and end."""
    plan = plan_to("ctp", wise_ft=0.25)
    return plan, continue_pretraining(plan)


def weights(path):
    return load_file(path)


def test_all_sets_are_measured_after_each(whole, sets):
    plan, done = whole
    remembered = done.metrics["remembered"]
    assert remembered["sets"] == ["a", "b"]
    assert [stage["after"] for stage in remembered["stages"]] == ["before", "a", "b", "wise-ft 0.25"]
    trained = [f"{plan.first.out}/after-{n}/model.safetensors" for n in (1, 2)]
    for stage, spec in enumerate([plan.first.backbone, *trained]):
        backbone = load_backbone(spec, device="cpu")
        for number, name in enumerate(("a", "b")):
            read = read_splits(plan.first, sets[name], continuing.Reporter(quiet=True))
            scores = evaluate_retrieval(backbone, read.test, split=None).metrics
            told = remembered["stages"][stage]["sets"][number]
            for k in (1, 5, 10):
                both = [scores[side][f"r{k}"] for side in ("image_to_text", "text_to_image")]
                assert told[f"r{k}"] == pytest.approx(sum(both) / 2)
                assert told[f"text_to_image/r{k}"] == pytest.approx(both[1])
    assert all("top1" in stage["generic"] for stage in remembered["stages"])
    r1 = [[each["r1"] for each in stage["sets"]] for stage in remembered["stages"]]
    assert remembered["backward_transfer"]["value"] == pytest.approx(r1[3][0] - r1[1][0])


def test_each_set_starts_where_the_last_ended(whole):
    """The stages are those of `pretrain`, one after the other."""
    plan, done = whole
    out = ContinualFolder(done.model.parent)
    alone = replace(plan.stage(1, str(out.of_set(1) / "model.safetensors"), out.path.parent / "alone"))
    again = run_plan(alone, False, continuing.Reporter(quiet=True))
    ours, theirs = weights(out.of_set(2) / "model.safetensors"), weights(again.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_wise_ft_lies_between_start_and_end(whole, small_clip_spec):
    _, done = whole
    start = load_backbone(small_clip_spec, device="cpu").model.state_dict()
    end, ours = weights(done.model.parent / "after-2" / "model.safetensors"), weights(done.model)
    for name, value in ours.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name], atol=1e-6, rtol=1e-5)


def test_the_folder_says_what_was_done(whole):
    _, done = whole
    folder = done.model.parent
    info = json.loads((folder / "run.json").read_text())
    assert info["continual"]["method"] == "ctp" and info["data"]["name"] == "a then b" and info["steps"] == 4
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


def test_killed_in_the_second_set_it_goes_on_bit_for_bit(whole, plan_to, monkeypatch):
    from vladapt.core.training.resume import ResumeHook

    _, done = whole
    plan, save, begun = plan_to("ctp", wise_ft=0.25, options=["save_every=1"]), ResumeHook.after_train_iter, []

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
    again = continue_pretraining(plan, resume=True)
    ours, theirs = weights(again.model), weights(done.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert again.metrics == done.metrics
    assert continue_pretraining(plan, resume=True).finished_before


def test_stages_on_other_test_pairs_are_refused(whole):
    stage = StageScores.load(ContinualFolder(whole[1].model.parent).scores(BEFORE))
    stage.check_same_pairs(stage, Path("x"))
    ranks = stage.sets[0]
    fewer = SetRanks(
        {side: rows[1:] for side, rows in ranks.ranks.items()}, {s: rows[1:] for s, rows in ranks.units.items()}
    )
    with pytest.raises(DataError, match="x: is of other test pairs than an earlier stage"):
        replace(stage, sets=[fewer, None]).check_same_pairs(stage, Path("x"))


def test_a_share_of_each_batch_is_of_earlier_sets(whole, plan_to, sets, tmp_path):
    """At as many steps; each earlier set by its size."""
    plan = plan_to("replay", then="bc", options=["continual.share=0.4"])
    third = plan.stage(2, "x", tmp_path / "after-3", dict(zip(map(sets.get, SETS), (30, 10, 10))))
    assert [(source.path, source.weight) for source in third.sources] == [
        (sets["c"], 0.6),
        (sets["a"], pytest.approx(0.3)),
        (sets["b"], pytest.approx(0.1)),
    ]
    assert not plan.stage(0, "x", tmp_path, {sets["a"]: 10}).sources
    second = plan.stage(1, str(whole[1].model), tmp_path / "after-2", {sets["a"]: 10, sets["b"]: 10})
    done = run_plan(
        replace(second, settings=replace(second.settings, epochs=2)), False, continuing.Reporter(quiet=True)
    )
    sources = json.loads((tmp_path / "after-2" / "run.json").read_text())["data"]["sources"]
    assert [(each["name"], each["shares"]) for each in sources] == [("b", [0.6]), ("a", [0.4])]
    assert done.summary["steps"] == 2 * 10 // 5


def test_a_set_that_is_gone_is_replayed_from_what_was_stored(plan_to, sets, tmp_path, monkeypatch):
    copy = tmp_path / "a"
    shutil.copytree(Path(sets["a"]).parent, copy)
    plan = plan_to("replay", options=["continual.memory=7"])
    plan, train, trained = replace(plan, first=replace(plan.first, data=str(copy / "a.csv"))), continuing.run_plan, []

    def stop_before_the_second(of, *rest):
        if trained:
            raise Stop
        trained.append(of)
        return train(of, *rest)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(continuing, "run_plan", stop_before_the_second)
        continue_pretraining(plan)
    shutil.rmtree(copy)
    done = continue_pretraining(plan, resume=True)
    stages = done.metrics["remembered"]["stages"]
    assert stages[1]["sets"][0]["r1"] is not None and stages[2]["sets"][0] == {}
    assert done.metrics["remembered"]["backward_transfer"] is None and any("is gone" in note for note in done.notes)
    folder = ContinualFolder(done.model.parent)
    assert load_file(folder.of_set(1) / STORED)["images"].shape == (7, 24)
    losses = json.loads((folder.of_set(2) / "run.json").read_text())["losses"]
    assert losses == {"clip": 1.0, "stored-replay": pytest.approx(1 / 3)}


def test_self_distillation_learns_from_a_model_of_its_own(plan_to):
    plan = plan_to("self-distill", then="", options=["continual.preserve=yes"])
    done = continue_pretraining(plan)
    folder = ContinualFolder(done.model.parent)
    first, second = (json.loads((folder.of_set(1, part) / "run.json").read_text()) for part in ("-teacher", ""))
    assert (first["losses"], second["losses"]) == ({"clip": 1.0}, {"self-distill": 1.0, "clip": 1.0})
    assert second["teacher"].endswith("after-1-teacher/model.safetensors")
    assert first["backbone"]["fingerprint"] == second["backbone"]["fingerprint"]


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [
        ("none", ({"clip": 1.0}, {}, None), ({"clip": 1.0}, {}, None)),
        ("lwf", ({"clip": 1.0}, {}, None), ({"lwf": 1.0, "clip": 1.0}, {}, "earlier")),
        ("ctp", ({"ctp": 1.0}, {"ctp": {"first": True}}, None), ({"ctp": 1.0}, {"ctp": {"first": False}}, None)),
    ],
)
def test_each_method_has_its_losses(plan_to, tmp_path, method, first, second):
    plan = plan_to(method)
    for number, wanted in enumerate((first, second)):
        stage = plan.stage(number, "earlier", tmp_path)
        of_method = {name: dict(of) for name, of in stage.loss_options.items() if of}
        assert (stage.losses, of_method, stage.teacher) == wanted and stage.backbone == "earlier"
    if method != "none":
        preserving = replace(plan, options=replace(plan.options, preserve=True)).stage(0, "earlier", tmp_path)
        assert (dict(preserving.losses), preserving.teacher) == (second[0], second[2])


@pytest.mark.parametrize(
    ("named", "losses"),
    [
        (["lwf=0.5"], {"lwf": 0.5, "clip": 1.0}),
        (["silc", "lwf=2"], {"lwf": 2.0, "silc": 1.0}),
    ],
)
def test_the_weight_of_a_method_keeps_the_losses_beside_it(plan_to, tmp_path, named, losses):
    plan = plan_to("lwf", losses=named)
    assert dict(plan.stage(1, "earlier", tmp_path).losses) == losses
    assert dict(plan.stage(0, "earlier", tmp_path).losses) == {name: losses[name] for name in losses if name != "lwf"}


def test_another_schedule_keeps_its_own_defaults(plan_to):
    settings, plain = plan_to(options=["schedule=cosine"]).first.settings, TrainingSettings()
    assert (settings.schedule, settings.warmup, settings.end_lr) == ("cosine", plain.warmup, plain.end_lr)
    assert plan_to(options=["schedule=epoch-steps", "warmup=1"]).first.settings.end_lr == plain.end_lr


@pytest.mark.parametrize("other", [{"generic": None}, {"image_size": 32}, {"data_options": {"val": 0.2}}])
def test_a_chain_is_resumed_with_what_it_was_begun_with(plan_to, other):
    plan = plan_to()
    assert replace(plan, first=replace(plan.first, **other)).identity != plan.identity


def test_rates_are_warmed_up_again_unless_told_otherwise(plan_to, tmp_path):
    settings = plan_to().first.settings
    assert (settings.schedule, settings.warmup, settings.end_lr) == ("rewarm", 0.01, 1e-4)
    told = plan_to(options=["schedule=cosine", "warmup=0.2", "end_lr=0"]).first.settings
    assert (told.schedule, told.warmup, told.end_lr) == ("cosine", 0.2, 0.0)
    endless = plan_to(then="bc", options=["schedule=infinite"])
    phases = [endless.stage(number, "x", tmp_path).settings for number in range(3)]
    assert [(each.warmup, each.cooldown, each.anneal) for each in phases] == [
        (0.01, 0.6, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, 0.0, 0.15),
    ]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"then": "a"}, "--then .*a.csv: named twice"),
        ({"method": "lwf", "then": ""}, "there is no further set; give --then"),
        ({"method": "ctp", "losses": ["clip"]}, "--continual ctp has a contrast of its own"),
        ({"method": "lwf", "teacher": ["embedded"]}, "--continual lwf learns from the towers before each set"),
        ({"method": "ctp", "teacher": ["embedded"]}, "--continual ctp learns from the towers before each set"),
        ({"method": "ewc"}, "method"),
        ({"wise_ft": 1.5}, "wise_ft"),
        ({"options": ["continual.shares=0.2"]}, "shares"),
        ({"method": "lwf", "options": ["continual.stored=x"]}, "replays nothing; give replay"),
        ({"method": "ctp", "options": ["continual.share=0.5"]}, "share=0.5.*replays nothing; give replay"),
        ({"options": ["continual.memory=5"]}, "memory=5.*replays nothing; give replay"),
        ({"method": "replay", "options": ["continual.preserve=yes"]}, "give ctp, lwf or self-distill"),
        ({"losses": ["m-clip"]}, "--loss m-clip: learns from sentences"),
        ({"method": "lwf", "losses": ["m-clip"]}, "m-clip: learns from sentences"),
    ],
)
def test_what_cannot_be_is_one_line(plan_to, asked, line):
    with pytest.raises((ConfigError, UnknownNameError), match=line):
        plan_to(asked.pop("method", "none"), **asked)


def test_a_set_under_another_spelling_is_the_same_set(plan_to, sets):
    again = Path(sets["a"]).parent / "." / ".." / Path(sets["a"]).parent.name / "a.csv"
    with pytest.raises(ConfigError, match=r"named twice"):
        replace(plan_to(), then=[str(again)])


def test_sets_without_test_pairs_or_missing_ones_are_refused_before_all(plan_to, sets, tmp_path):
    table = Path(sets["a"]).parent / "untested.csv"
    table.write_text(Path(sets["a"]).read_text().replace(",test", ",train"))
    plan = plan_to(then="")
    with pytest.raises(DataError, match="no set has test pairs"):
        continue_pretraining(replace(plan, first=replace(plan.first, data=str(table))))
    with pytest.raises(DataError, match=r"gone\.safetensors"):
        continue_pretraining(plan_to("replay", then="", options=[f"continual.stored={tmp_path}/gone.safetensors"]))
    with pytest.raises(DataError, match="nowhere"):
        continue_pretraining(replace(plan, then=[str(tmp_path / "nowhere.csv")]))
    assert not Path(plan.first.out).exists()


def test_images_that_another_set_holds_out_are_not_trained_on(plan_to, sets, tmp_path):
    """Set b has copies of three images that a holds out, and holds out one that a would train on."""
    a, b = (Path(sets[name]) for name in "ab")
    shutil.copytree(b.parent, tmp_path / "b")
    for of_a, of_b in (("10", "0"), ("11", "1"), ("12", "2"), ("5", "14")):
        shutil.copy(a.parent / f"{of_a}.png", tmp_path / "b" / f"{of_b}.png")
    done = continue_pretraining(replace(plan_to("replay"), then=(str(tmp_path / "b" / "b.csv"),)))
    told = [note for note in done.notes if "another set holds out a copy" in note]
    assert [(note.split(":")[0], note.split(": ")[-1]) for note in told] == [("a", "1."), ("b", "3.")]
    folder = ContinualFolder(done.model.parent)
    trained = [json.loads((folder.of_set(n) / "run.json").read_text())["data"] for n in (1, 2)]
    assert trained[0]["splits"]["train"] == 9
    assert {of["name"]: of["splits"]["train"] for of in trained[1]["sources"]} == {"a": 9, "b": 7}
    assert folder.path.joinpath("run.json").read_text().count('"b, train": 7') == 1


def test_the_first_set_may_be_several_sources(plan_to, sets, tmp_path):
    """They are mixed in the first training, replayed each by its size in the second, and measured as one set."""
    data = [f"{sets['a']}=3", sets["b"]]
    plan = plan_to("replay", then="c", data=data, mixing={"samples": 15})
    assert [source.text for source in plan.sets[0]] == [f"{sets['a']}=3.0", sets["b"]]
    again = plan_to("replay", then="c", data=data, mixing={"samples": 20})
    assert plan.identity["mixing"] != again.identity["mixing"] and plan.identity["sets"] == again.identity["sets"]
    done = continue_pretraining(plan)
    remembered = done.metrics["remembered"]
    assert remembered["sets"] == ["a + b", "c"] and len(remembered["stages"][0]["sets"]) == 2
    folder = ContinualFolder(done.model.parent)
    infos = [json.loads((folder.of_set(n) / "run.json").read_text()) for n in (1, 2)]
    assert [of["shares"] for of in infos[0]["data"]["sources"]] == [[0.75], [0.25]] and infos[0]["steps"] == 15 // 5
    assert [of["shares"] for of in infos[1]["data"]["sources"]] == [[0.75], [0.125], [0.125]]
    assert load_file(folder.of_set(1) / STORED)["images"].shape == (20, 24)


def test_options_of_the_reader_go_to_the_sets_that_they_are_for(plan_to, sets, tmp_path):
    """A root to the table, and none to a folder of images with texts."""
    folder = tmp_path / "beside"
    folder.mkdir()
    for number in range(12):
        shutil.copy(Path(sets["b"]).parent / f"{number}.png", folder)
        (folder / f"{number}.txt").write_text(f"picture {number}")
    plan = replace(plan_to(options=[f"data.root={Path(sets['a']).parent}"]), then=(str(folder),))
    chain = continuing._Chain(plan, False, continuing.Reporter(quiet=True))
    assert [len(read.train) for read in chain._read()] == [10, 10]
    (tmp_path / "texts.csv").write_text("caption,caption_de\n" + "".join(f"a {n},ein {n}\n" for n in range(9)))
    with pytest.raises(DataError, match=r"--then .*texts.csv: holds texts without images; give it as a further --data"):
        continue_pretraining(replace(plan_to(), then=(str(tmp_path / "texts.csv"),)))


def test_classes_that_captions_name_stand_in_the_table(small_clip, tmp_path):
    scores = evaluate_retrieval(small_clip, sample_pairs(30), split=None)
    named, (low, high) = scores.metrics["accuracy"], scores.metrics["intervals"]["accuracy"]
    stage = StageScores.of([scores], {})
    stage.save(tmp_path / "scores.safetensors")
    loaded = StageScores.load(tmp_path / "scores.safetensors")
    remembered = SetsRemembered.of_stages(["a"], [BEFORE, "a"], [loaded, loaded], 1)
    text = " ".join(_text(remembered.table()).split())
    assert f"classes {named:.1%} ({100 * low:.1f} to {100 * high:.1f})" in text
    titles = [section.title for section in remembered.sections() if section is not None]
    assert titles[:2] == ["R@1 of each set after each stage", "Classes of each set after each stage"]
