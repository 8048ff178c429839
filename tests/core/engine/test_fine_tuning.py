"""Adapters that train towers, through the engine: fit, eval, predict, compare, novel classes, clips, several labels."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from forked import run
from PIL import Image

import vladapt
from vladapt.core.engine.compare import compare
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError
from vladapt.core.recipes.asked_for import adapter_options, encoding_batch_size
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.registry import build_adapter
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.fitting import fit_key

THIRD_PARTY = Path(__file__).parent / "third_party"
QUICK = {"full": {"lr": 2e-3, "epochs": 8}, "lora": {"lr": 5e-2, "epochs": 8}, "lit": {"lr": 2e-3, "epochs": 8}}


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    pytest.importorskip("peft", reason="extra fine-tune is not installed")
    monkeypatch.syspath_prepend(str(THIRD_PARTY))
    monkeypatch.chdir(tmp_path)


def fit(spec, name="full", domain="toy-labels", options=(), **flags):
    adapter = {"name": name, **QUICK[name], **dict(options)}
    flags = {"shots": 8, "seed": 1, **flags}
    return vladapt.fit(domain=domain, backbone=spec, adapter=adapter, **flags)


@pytest.fixture(scope="module")
def fitted(small_clip_spec, tmp_path_factory):
    """`fitted(name)`: the fit of a method, made once; for reading only."""
    return cache(lambda name: fit(small_clip_spec, name, out=str(tmp_path_factory.mktemp(name) / "run")))


@pytest.mark.thorough(but=("full",))
@pytest.mark.parametrize("name", QUICK)
def test_labelled_images_are_learned_and_eval_gives_the_same_numbers(fitted, name):
    result = fitted(name)
    assert result.metrics["adapted"]["accuracy"] > result.metrics["zero_shot"]["accuracy"] + 0.2
    again = vladapt.evaluate(result.run)
    for side in ("zero_shot", "adapted"):
        assert again[side] == pytest.approx(result.metrics[side], abs=1e-5)
    assert len(result.report.history) == 8
    assert result.report.history[-1]["loss"] < result.report.history[0]["loss"]


@pytest.mark.thorough(but=("lora",))
@pytest.mark.parametrize("name", QUICK)
def test_another_process_predicts_the_same(small_clip_spec, class_folders, name, tmp_path):
    data = class_folders()
    adapter = {"name": name, **QUICK[name]}
    result = vladapt.fit(domain="medical", backbone=small_clip_spec, adapter=adapter, data=str(data), shots=4)
    ids = json.loads((result.run / "run.json").read_text())["splits"]["test"]
    here = vladapt.predict(result.run, [data / i for i in ids]).probabilities
    code = (
        "import sys, torch, vladapt\ntorch.save(vladapt.predict(sys.argv[1], sys.argv[3:]).probabilities, sys.argv[2])"
    )
    files = [str(data / i) for i in ids]
    run(["-c", code, result.run, tmp_path / "there.pt", *files], check=True)
    there = torch.load(tmp_path / "there.pt")
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-4)
    right = np.mean([name.split("/")[-2] == result.adapter.class_names_[i] for name, i in zip(files, there.argmax(1))])
    assert right == pytest.approx(result.metrics["adapted"]["accuracy"])
    assert there.max(dim=1).values.min() < 1


@pytest.fixture
def class_folders(tmp_path):
    """Red and green squares with noise, 10 each."""

    def make():
        rng = np.random.default_rng(0)
        for name, colour in {"red": (200, 60, 60), "green": (60, 200, 60)}.items():
            (tmp_path / "data" / name).mkdir(parents=True)
            for i in range(10):
                pixels = np.clip(rng.normal(0, 30, (24, 24, 3)) + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
        return tmp_path / "data"

    return make


def test_features_of_trained_towers_are_not_stored(small_clip_spec, tmp_path):
    def stored():
        return {p.name: p.stat().st_size for p in (tmp_path / "vladapt-cache" / "features").rglob("*.safetensors")}

    first = fit(small_clip_spec)
    tests, before = first.metrics["test_images"], stored()
    second = fit(small_clip_spec)
    assert first.from_store == 0 and second.encoded >= tests  # and what confidences are calibrated on
    assert second.from_store + second.encoded == first.encoded
    vladapt.evaluate(first.run)
    assert stored() == before


def prepared_of(recipe):
    task = task_of(recipe)
    return task.prepared(task.settled(recipe), Reporter(quiet=True))


def test_the_base_backbone_is_left_as_it_was(small_clip_spec):
    recipe = resolve(
        flags={"domain": "toy-labels", "backbone": small_clip_spec, "adapter": {"name": "full", **QUICK["full"]}}
    )
    one = compare(recipe, ["full", "linear-probe"], [4], [1], splits=1)
    other = compare(recipe, ["linear-probe"], [4], [1], splits=1)
    rows = {row["adapter"]: row["accuracy"] for row in one.rows}
    assert rows["linear-probe"] == {row["adapter"]: row["accuracy"] for row in other.rows}["linear-probe"]
    assert one.refused == {}
    alone = fit(small_clip_spec, shots=4)
    assert rows["full"] == alone.metrics["adapted"]["accuracy"]
    assert rows["zero-shot"] == alone.metrics["zero_shot"]["accuracy"]


def test_a_comparison_takes_options_of_each_method(small_clip_spec):
    sets = ["adapters.full.epochs=1", "adapters.lora.epochs=2", "adapters.lora.params=q,v"]
    recipe = resolve(sets=sets, flags={"domain": "toy-labels", "backbone": small_clip_spec})
    assert adapter_options(recipe) == {}
    found = compare(recipe, ["full", "lora", "ape"], [2], [1, 2], splits=1)
    assert found.refused == {} and len(found.rows) == 12
    with pytest.raises(ConfigError, match=r"adapters\.lora: lora is not fitted here"):
        compare(recipe, ["full"], [2], [1])
    with pytest.raises(ConfigError, match=r"adapters\.full: full is not fitted here"):
        vladapt.fit(recipe)
    recipe = resolve(sets=[*sets, "adapter=lora", "adapter.epochs=3"])
    assert adapter_options(recipe) == {"epochs": 3, "params": "q,v"}
    with pytest.raises(UnknownNameError, match="did you mean lora"):
        resolve(sets=["adapters.lorra.epochs=1"])
    with pytest.raises(ConfigError, match=r"adapters\.lora\.OPTION"):
        resolve(sets=["adapters.lora=2"])


def test_hooks_hear_of_the_trainings_of_a_comparison(small_clip_spec, monkeypatch):
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    heard = []
    hearing = type("Hearing", (Hook,), {"after_train_iter": lambda self, *args, **of: heard.append(args)})
    monkeypatch.setitem(HOOKS.module_dict, "Hearing", hearing)
    flags = {"domain": "toy-labels", "backbone": small_clip_spec, "custom_hooks": [{"type": "Hearing"}]}
    recipe = resolve(flags={**flags, "adapters.full.epochs": 1})
    with pytest.raises(ConfigError, match="custom_hooks: adapter 'tip-adapter' trains no towers"):
        compare(recipe, ["tip-adapter"], [2], [1], splits=1, out="none")
    compare(recipe, ["full", "tip-adapter"], [2], [1], splits=1, out="some")
    assert heard


@pytest.mark.thorough(but=("lora",))
@pytest.mark.parametrize("name", QUICK)
def test_clips_are_learned_from_all_their_frames(small_clip_spec, name):
    result = fit(small_clip_spec, name, domain="toy-clips")
    assert result.metrics["adapted"]["accuracy"] > 0.9


@pytest.mark.thorough(but=("full",))
@pytest.mark.parametrize("name", QUICK)
def test_several_labels_an_image(small_clip_spec, name):
    result = fit(small_clip_spec, name, domain="toy-findings", shots=16)
    assert result.metrics["adapted"]["auroc"] > result.metrics["zero_shot"]["auroc"] + 0.1
    assert result.adapter.negative is not None
    again = vladapt.evaluate(result.run)
    assert again["adapted"]["auroc"] == pytest.approx(result.metrics["adapted"]["auroc"], abs=1e-5)


def test_a_loss_of_captions_is_refused_for_several_labels(small_clip_spec):
    with pytest.raises(CapabilityError, match=r"loss clip needs.*one label per image"):
        fit(small_clip_spec, domain="toy-findings", options={"loss": "clip"})


def test_what_the_towers_forgot_is_in_notes_metrics_log_and_report(fitted):
    result = fitted("full")
    generic = result.metrics["generic"]
    assert (generic["images"], generic["words"]) == (30, 130)
    sentence = next(note for note in result.notes if note.startswith("Generic vocabulary (130 words, 30 drawings): "))
    assert sentence in (result.run / "log.txt").read_text()
    page = (result.run / "report.html").read_text()
    assert "What the towers still know about other things" in page and "30 drawings" in page
    assert "vladapt.load_run(" in page
    assert json.loads((result.run / "metrics.json").read_text())["generic"]["before"] == generic["before"]


def test_a_frozen_backbone_has_nothing_to_forget(small_clip_spec):
    result = vladapt.fit(domain="toy-labels", backbone=small_clip_spec, adapter="linear-probe", shots=2)
    assert "generic" not in result.metrics
    assert "still know" not in (result.run / "report.html").read_text()
    assert "adapted(" not in (result.run / "report.html").read_text()


def test_generic_images_may_be_the_user_s(small_clip_spec, class_folders):
    result = fit(small_clip_spec, generic=str(class_folders()))
    assert (result.metrics["generic"]["name"], result.metrics["generic"]["images"]) == ("data", 20)
    with pytest.raises(DataError, match="nowhere"):
        fit(small_clip_spec, generic="nowhere")


class Shades(vladapt.Domain):
    """Four colours."""

    name = "shades"
    COLOURS: ClassVar = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220), "yellow": (220, 210, 40)}

    def read(self, path, task, **options):
        return self.sample(task)

    def sample(self, task):
        targets = [vladapt.Label(i % 4) for i in range(80)]
        items = [vladapt.Item(f"{i}", Path(__file__), {"index": i, "digest": f"{i}"}, t) for i, t in enumerate(targets)]
        return vladapt.DomainData(items, tuple(self.COLOURS), self.draw, name="shades")

    def templates(self, task):
        return ["a {} patch.", "{}"]

    def draw(self, item):
        noise = np.random.default_rng(item.decode["index"]).normal(0, 20, (24, 24, 3))
        return np.clip(noise + list(self.COLOURS.values())[item.target.index], 0, 255).astype(np.uint8)


@pytest.mark.thorough(but=("lora",))
@pytest.mark.parametrize("name", ["full", "lora"])
def test_classes_it_was_not_trained_on(small_clip_spec, name):
    result = fit(small_clip_spec, name, classes="red,green", novel=True, domain=Shades())
    novel = result.metrics["novel"]
    assert novel["test_images"] > 0
    assert 0 <= novel["adapted"]["harmonic_mean"] <= 1
    other = result.adapter.for_classes(vladapt.load_backbone(small_clip_spec, device="cpu"), ["blue", "yellow"])
    assert other.weights.shape == (2, 24) and other.class_names_ == ("blue", "yellow")


def test_the_batch_size_of_a_recipe_is_that_of_the_training(small_clip_spec):
    flags = {"domain": "toy-labels", "adapter": "lora", "batch_size": 4, "amp": "bf16", "workers": 0}
    recipe = resolve(flags=flags)
    assert adapter_options(recipe) == {"batch_size": 4, "amp": "bf16", "workers": 0}
    assert encoding_batch_size(recipe) is None
    recipe = resolve(flags={**flags, "adapter": {"name": "lora", "batch_size": 8}})
    assert adapter_options(recipe)["batch_size"] == 8
    frozen = resolve(flags={**flags, "adapter": "ape"})
    assert adapter_options(frozen) == {} and encoding_batch_size(frozen) == 4


def test_mixed_precision_on_a_cpu(small_clip_spec):
    result = fit(small_clip_spec, amp="bf16")
    assert result.metrics["adapted"]["accuracy"] > 0.9
    assert json.loads((result.run / "run.json").read_text())["adapter_options"]["amp"] == "bf16"


def test_a_features_file_is_refused_in_one_line(tmp_path):
    np.savez(
        tmp_path / "f.npz",
        image_features=np.random.default_rng(0).normal(size=(30, 8)).astype("f4"),
        labels=np.arange(30) % 3,
        text_features=np.eye(8)[:3],
        class_names=np.array(["a", "b", "c"]),
    )
    with pytest.raises(CapabilityError, match=r"'full' needs the images.*give --data"):
        vladapt.fit(features=str(tmp_path / "f.npz"), adapter="full")


def test_val_images_choose_the_epoch(small_clip_spec):
    result = fit(small_clip_spec, options={"select": "best_val", "epochs": 3})
    assert result.report.chosen_on == "val" and 0 < result.report.val_score <= 1
    assert [row["val"] for row in result.report.history].index(result.report.val_score) + 1 == result.report.chosen[
        "epoch"
    ]


def test_a_training_that_loses_its_numbers_says_so(small_clip_spec):
    with pytest.raises(DataError):
        fit(small_clip_spec, options={"lr": 1e9, "warmup": 0.0})
    assert not list(Path("runs").glob("[!.]*"))


def test_resume_is_not_for_adapters_that_train_no_tower(small_clip_spec, capsys):
    result = vladapt.fit(
        domain="toy-labels", backbone=small_clip_spec, adapter="ape", shots=2, resume=True, reporter=Reporter()
    )
    assert result.metrics["adapted"]["accuracy"] > 0
    assert "--resume: ape keeps no checkpoints, so there is nothing to continue from" in capsys.readouterr().err


def test_a_fit_is_known_by_what_it_learns_from_what(small_clip_spec, class_folders):
    data = class_folders()

    def key(**flags):
        given = {"domain": "medical", "backbone": small_clip_spec, "data.path": str(data), "adapter.name": "full"}
        recipe = resolve(flags={**given, "shots": 4, **flags})
        prepared = prepared_of(recipe)
        adapter, shots = build_adapter("full", **adapter_options(recipe)), prepared.draw(recipe.shots, 1)
        return fit_key(adapter, prepared, shots, recipe.seed, recipe.shots, recipe.refit)

    first = key()
    same = [key(workers=1), key(**{"adapter.micro_batch_size": 2}), key(**{"adapter.save_every": 7}), key(out="else")]
    assert set(same) == {first} and len(first) == 16
    other = [
        key(**{"adapter.lr": 1.0}),
        key(seed=2),
        key(shots=3),
        key(templates="{}"),
        key(batch_size=8),
        key(amp="bf16"),
    ]
    assert len({first, *other}) == 7
    for image in (data / "red").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    assert key() not in {first, *other}


def test_images_behind_a_draw_are_in_the_order_of_its_features(small_clip_spec):
    recipe = resolve(flags={"domain": "toy-labels", "backbone": small_clip_spec})
    prepared = prepared_of(recipe)
    shots = prepared.draw(4, seed=1)
    images = prepared.training_images(shots)
    assert tuple(item.id for item in images.items) == shots.support.ids
    assert tuple(item.id for item in images.val) == shots.val.ids
    assert images.prompts == prepared.classifier.texts and images.templates == ["a {} patch."]


@pytest.mark.parametrize("name", QUICK)
def test_trained_towers_become_a_backbone_of_their_own(small_clip_spec, fitted, name):
    from vladapt.core.backbones.load import save_fine_tuned

    result = fitted(name)
    backbone = vladapt.load_backbone(small_clip_spec, device="cpu")
    adapter = vladapt.load_adapter(result.run / "adapter.safetensors", backbone)
    path = save_fine_tuned(adapter.adapted(backbone), "model")
    moved = vladapt.load_backbone(str(path), device="cpu")
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved.encode_image(pixels), adapter.adapted(backbone).encode_image(pixels))
    again = vladapt.fit(domain="toy-labels", backbone=str(path), adapter="zero-shot", templates="a {} patch.")
    assert again.metrics["zero_shot"]["accuracy"] > 0.9


def test_settings_that_do_not_fit_are_refused_before_anything_is_encoded(small_clip_spec, tmp_path):
    with pytest.raises(ConfigError, match="option r=0"):
        vladapt.fit(domain="toy-labels", backbone=small_clip_spec, adapter={"name": "lora", "r": 0})
    assert not (tmp_path / "vladapt-cache" / "features").exists()
