"""Actions told clip by clip: published lists, views whose predictions are averaged, scores as papers count them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import vladapt
from vladapt import FeatureSet, load_adapter
from vladapt.core.contracts.judgement import Scores
from vladapt.core.engine.embed import embed
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.features.files import load_features
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.video import Video
from vladapt.domains.video.metrics.top_five import TopFive
from vladapt.domains.video.tasks.action_recognition import ActionRecognition

pytest.importorskip("av", reason="extra video is not installed")
ACTIONS = ("bow", "clap", "dive", "hop", "kick", "run", "sit")
READING = {"frames": 2, "clips": 2, "crops": 3}


@pytest.fixture(scope="module")
def folder(clip_bytes, tmp_path_factory):
    """Three clips of each of seven actions, and beside them two clips per action as a published list names them."""
    root = tmp_path_factory.mktemp("actions")
    for number, (action, clip) in enumerate((action, clip) for action in ACTIONS for clip in range(3)):
        path = root / action / f"{action}_{clip}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(clip_bytes[number % len(clip_bytes)] + b"\0" * number)
    lines = [f"{action}_{clip}.avi {label}" for label, action in enumerate(ACTIONS) for clip in (2, 0)]
    (root / "train1_few_shot_2.txt").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fitted(folder, cache, small_clip_spec, tmp_path_factory):
    """Averaged frames on base classes, six views of each clip at test."""
    data = {"path": str(folder), "train_list": "train1_few_shot_2.txt", "average_views": "probabilities", **READING}
    adapter = {"name": "mean-pool", "epochs": 1}
    how = {"backbone": small_clip_spec, "seed": 1, "shots": None, "out": str(tmp_path_factory.mktemp("runs"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(cache))
        return vladapt.fit(domain="video", data=data, adapter=adapter, classes=list(ACTIONS[:6]), **how)


def test_the_listed_clips_teach_and_all_others_are_for_testing(fitted, folder):
    info = json.loads((fitted.run / "run.json").read_text())
    assert info["task"] == "action-recognition" and info["class_names"] == list(ACTIONS[:6])
    splits = {split: sorted(Path(name).stem for name in ids) for split, ids in info["splits"].items()}
    assert splits["support"] == sorted(f"{action}_{clip}" for action in ACTIONS[:6] for clip in (0, 2))
    assert splits["val"] == [] and splits["test"] == sorted(f"{action}_1" for action in ACTIONS[:6])
    assert any("averaged over 2 x 3 views" in note for note in info["notes"])


def test_scores_are_told_as_papers_tell_them(fitted):
    assert {"accuracy", "top_5_accuracy", "balanced_accuracy"} <= fitted.metrics["adapted"].keys()
    assert 0 <= fitted.metrics["adapted"]["accuracy"] <= fitted.metrics["adapted"]["top_5_accuracy"] <= 1
    page = (fitted.run / "report.html").read_text()
    assert all(word in page for word in ("Measures used in papers on actions", "Top-1", "Top-5", "Mean class accuracy"))
    assert "test clips" in page and "Clips in the data set" in page and "clip.mp4" in page
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script|svg).*?</\1>", " ", page, flags=re.DOTALL))
    of_towers = r"image features|an image with its text|images? at \d+|image tower"
    assert not re.findall(r"\b(?:images?|patients?)\b", re.sub(of_towers, "", text), flags=re.IGNORECASE)


def test_predictions_are_the_means_over_clips_and_crops(fitted, folder, cache, small_clip, monkeypatch):
    """Each view encoded and scored by itself, by hand."""
    monkeypatch.setenv("VLADAPT_CACHE", str(cache))
    domain, adapter = Video(), load_adapter(fitted.run / "adapter.safetensors", small_clip)
    data = domain.read(folder, **READING)
    transform = domain.of(data).transforms(small_clip, False)
    item = next(i for i in data.items if i.id.endswith("dive_1.mp4"))
    with torch.no_grad():
        views = small_clip.encode_image(transform(data.load(item)), normalize=False).unflatten(0, (6, 2))
    wanted = torch.stack([adapter.logits(FeatureSet.of_parts(view[None])).softmax(dim=1) for view in views]).mean(dim=0)
    predicted = vladapt.predict(fitted.run, [folder / "dive" / "dive_1.mp4"])
    order = [row["probability"] for row in predicted.rows(top=6)[0]["top"]]
    assert not (fitted.run / "calibration.safetensors").exists(), "what is compared is not calibrated"
    torch.testing.assert_close(torch.tensor(order), wanted[0].sort(descending=True).values, atol=1e-4, rtol=1e-3)
    assert vladapt.evaluate(fitted.run)["adapted"] == fitted.metrics["adapted"]


def test_features_of_views_are_written_with_how_they_divide(folder, small_clip_spec, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    data = {"path": str(folder), "average_views": "scores", "frames": 2, "clips": 2}
    recipe = resolve(flags={"domain": "video", "data": data, "backbone": small_clip_spec})
    for name in ("clips.safetensors", "clips.npz"):
        embed(recipe, tmp_path / name, parts=True)
        views = load_features(tmp_path / name).features.part_views
        assert (views.count, views.middle, views.average) == (2, 0, "scores")


def test_top_five_is_of_more_than_five_classes():
    logits = torch.arange(6.0).repeat(4, 1)  # the first class comes last
    assert TopFive().values(logits, torch.tensor([0, 1, 2, 5]), ACTIONS[:6]) == {"top_5_accuracy": 0.75}
    assert TopFive().values(logits[:, :5], torch.tensor([0, 1, 2, 3]), ACTIONS[:5]) == {}


def test_several_actions_per_clip_are_told_by_map():
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    metrics = {"zero_shot": None, "adapted": {"mean_average_precision": 0.5, "accuracy": 0.9}}
    (section,) = ActionRecognition(Video()).further_sections(None, Scores(labels, None, labels, metrics))
    assert [tuple(row) for row in section.rows] == [("mAP", "50.0%")] and "Charades" in section.note


def test_lists_and_views_that_cannot_be_are_one_line(folder, tmp_path):
    (tmp_path / "other.txt").write_text("walk_9.avi 0\nbow_0.avi 1\n")
    for reading, error, words in (
        ({"train_list": "none.txt"}, DataError, r"data.train_list=none.txt: no such file, nor one in .*actions"),
        ({"train_list": str(tmp_path / "other.txt")}, DataError, r"1 of its 2 samples are not in the set.*walk_9"),
        ({"average_views": "scores"}, ConfigError, "each clip has only one view; give --clips or --crops"),
    ):
        with pytest.raises(error, match=words):
            Video().read(folder, **reading)
    data = Video().read(folder, val_list=str(folder / "train1_few_shot_2.txt"))
    assert len(data.split("val")) == 14 and len(data.split("test")) == 7
