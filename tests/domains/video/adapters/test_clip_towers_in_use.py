"""Towers trained on clips in use: files, clips of any length and several crops, the engine, the order of frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_bars import FRAMES, IN_TOWER, SIDE, Problem, clip_item, draw, logits_of, seeing
from PIL import Image
from torch import nn

from vladapt import (
    Batch,
    FeatureSet,
    build_adapter,
    fit,
    load_adapter,
    load_backbone,
    predict,
)
from vladapt.core.backbones.joint_parts import JointParts
from vladapt.core.contracts import TrainingImages
from vladapt.core.contracts.items import DomainData
from vladapt.core.errors import CapabilityError
from vladapt.core.features.batches import Extras, batches
from vladapt.core.features.store import FeatureStore
from vladapt.core.judgements.part_order import PartOrder
from vladapt.core.metrics.classification import metrics_of
from vladapt.core.runtime.progress import Reporter
from vladapt.core.training.tower_passes import image_features
from vladapt.core.training.tower_weights import copy_of
from vladapt.domains.video import Video
from vladapt.domains.video.adapters.open_vclip import NeighbouringFrames
from vladapt.domains.video.transforms import EachFrame, WholeClip


@pytest.mark.parametrize("name", IN_TOWER)
def test_a_file_gives_the_same_towers_and_scores_of_decoded_clips(problem, fitted, spec, tmp_path, name):
    adapter, items = fitted[name], problem.images.val
    fresh = copy_of(problem.backbone)
    again = load_adapter(adapter.save(tmp_path / "a.safetensors"), fresh)
    assert again.frames == FRAMES
    towers = again.adapted(fresh)
    clips = problem.clips(items)
    assert torch.equal(image_features(towers, clips), image_features(adapter._made, clips))
    transform = Video().transforms(towers, False)
    data = DomainData(list(items), problem.classifier.class_names, draw)
    features = FeatureStore(keep=False).get_or_compute(data, items, towers, transform, batch_size=2).features
    torch.testing.assert_close(features.features, unnormalised(towers, clips), rtol=1e-4, atol=1e-5)
    base = Video().transforms(fresh, False)
    batch = Batch(features=features.features, images=[draw(item) for item in items], transform=base)
    expected = logits_of(name, towers, clips, problem) if name in ("open-vclip", "stan") else None
    logits = again.logits(batch)
    torch.testing.assert_close(logits, adapter.logits(batch), rtol=1e-5, atol=1e-5)
    if expected is not None:
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def unnormalised(towers, clips):
    if towers.joint is not None:
        return towers.encode_image(clips, normalize=False)
    return towers.encode_image(clips.flatten(0, 1), normalize=False).unflatten(0, (-1, FRAMES)).mean(dim=1)


def test_whole_clips_of_several_crops_are_averaged(problem, fitted):
    adapter, clip = fitted["x-clip"], draw(clip_item(5))[:, :, :36]
    crops = EachFrame(problem.backbone.preprocess(False), crops=3)
    whole = WholeClip(crops, FRAMES)(clip)
    assert whole.shape == (3, FRAMES, 3, SIDE, SIDE) and crops.spec != WholeClip(crops, FRAMES).spec
    twice, several = np.concatenate([clip, clip[::-1]]), WholeClip(crops, FRAMES, clips=2)
    views = several(twice)  # each clip is seen by itself
    assert views.shape == (6, FRAMES, 3, SIDE, SIDE) and several.spec != WholeClip(crops, FRAMES).spec
    assert torch.equal(views[0::2], whole) and torch.equal(views[1::2], WholeClip(crops, FRAMES)(clip[::-1]))
    one_by_one = [adapter.logits(Batch(images=[clip], transform=lambda _, each=each: each)) for each in whole]
    mean = torch.cat(one_by_one).mean(dim=0, keepdim=True)
    torch.testing.assert_close(adapter.logits(Batch(images=[clip], transform=crops)), mean, rtol=1e-4, atol=1e-4)


def test_clips_of_other_lengths(problem, fitted):
    """Frames at even steps, the first and the last among them: repeated where there are fewer."""
    numbers = torch.arange(5)
    assert JointParts.chosen(numbers, 3).tolist() == [0, 2, 4] and JointParts.chosen(numbers[:2], 5).tolist() == [
        0,
        0,
        0,
        1,
        1,
    ]
    assert JointParts.chosen(numbers, 5) is numbers
    items = [clip_item(i, frames) for i, frames in enumerate((3, 2, 5, 1))]
    images = TrainingImages(items, draw, *transforms_of(problem), problem.classifier.texts)
    assert Problem(problem.backbone, problem.classifier, images).fit("stan").frames == 3
    long, short = draw(clip_item(0, 5)), draw(clip_item(0, 5))[[0, 2, 4]]
    batches = [Batch(images=[clip], transform=problem.images.eval_transform) for clip in (long, short)]
    assert torch.equal(*(fitted["x-clip"].logits(batch) for batch in batches))


def transforms_of(problem):
    return problem.images.train_transform, problem.images.eval_transform


@pytest.mark.parametrize("name", IN_TOWER)
def test_towers_without_blocks_are_refused_in_one_line(name):
    says = "no transformer blocks of the image tower; towers that have it"
    with pytest.raises(CapabilityError, match=says):
        build_adapter(name).check_towers(load_backbone("embedded", device="cpu"))


def test_a_tower_sees_parts_by_one_thing_at_most(problem):
    towers = seeing(problem.backbone, NeighbouringFrames(FRAMES))
    with pytest.raises(CapabilityError, match="already encodes the parts of a sample together;"):
        NeighbouringFrames(FRAMES).attach(towers)
    stan = build_adapter("stan")
    stan.frames = 65
    with pytest.raises(CapabilityError, match="positions for 64 parts"):
        stan._joint(problem.backbone)
    assert isinstance(towers.joint, nn.Module) and problem.backbone.joint is None


@dataclass
class Prepared:
    """What the engine has of test clips."""

    data: DomainData
    backbone: object
    counts: object = None
    reporter: Reporter = Reporter(quiet=True)

    def on(self, backbone):
        return replace(self, backbone=backbone)

    def again(self, data, reporter=None):
        return replace(self, data=data)

    def of_ids(self, ids):
        clips = torch.stack([Video().transforms(self.backbone, False)(self.data.load(i)) for i in self.data.items])
        features = self.backbone.encode_image(clips[:, 0], normalize=False)
        return FeatureSet(features, torch.tensor([i.class_label() for i in self.data.items]), ids=tuple(ids))

    def batches(self, adapter, rows):
        transform = Video().transforms(self.backbone, False)
        return batches(adapter, rows, Extras(self.data.items, load=self.data.load, transform=transform))


@pytest.mark.parametrize("name", ["x-clip", "open-vclip"])
def test_what_is_owed_to_the_order_of_frames(problem, fitted, name):
    """Reversed is what the method says of clips played backwards; windows without direction lose nothing by that."""
    adapter, items = fitted[name], [clip_item(i) for i in range(10, 17)]
    prepared = Prepared(DomainData(items, ("down", "up"), draw), problem.backbone)
    test = prepared.on(adapter.adapted(problem.backbone)).of_ids([item.id for item in items])
    metrics = {"adapted": {"accuracy": 0.5, "balanced_accuracy": 0.5}}
    of = {"prepared": prepared, "adapter": adapter, "test": test, "class_names": ("down", "up"), "columns": None}
    of |= {"metrics": metrics, "scores": SimpleNamespace(**metrics), "seed": 1}
    told = PartOrder().compute(SimpleNamespace(**of))
    assert told["orders"] == 5 and told["in_order"] == 0.5
    backwards = Prepared(replace(prepared.data, load=lambda item: draw(item)[::-1]), adapter.adapted(problem.backbone))
    logits = torch.cat([adapter.logits(batch) for batch in backwards.batches(adapter, backwards.of_ids(test.ids))])
    scored = metrics_of(logits, test.labels, ("down", "up"))
    assert told["reversed"] == pytest.approx(scored[told["metric"]])
    in_order = torch.cat([adapter.logits(batch) for batch in prepared.on(backwards.backbone).batches(adapter, test)])
    assert torch.allclose(in_order, logits, rtol=0, atol=1e-5) == (name == "open-vclip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight clips of each class as folders of frames."""
    root = tmp_path_factory.mktemp("bars")
    for index in range(16):
        clip = root / ("down", "up")[index % 2] / str(index)
        clip.mkdir(parents=True)
        for number, frame in enumerate(draw(clip_item(index))):
            Image.fromarray(frame).save(clip / f"{number}.png")
    return root


@pytest.mark.thorough(but=("full",))
@pytest.mark.parametrize("name", ["x-clip", "full", "lora"])
def test_clips_are_fitted_and_named_by_the_engine(folder, spec, tmp_path, name):
    how = {"epochs": 1, "batch_size": 4, "lr": 1e-3}
    data = {"frames": FRAMES, "path": str(folder)}
    result = fit(domain="video", data=data, adapter={"name": name, **how}, backbone=spec, shots=3, seed=1, out=tmp_path)
    assert 0 <= result.metrics["adapted"]["accuracy"] <= 1 and result.metrics["zero_shot"]["accuracy"] <= 1
    assert ("part_order" in result.metrics) == (name == "x-clip")
    rows = predict(result.run, [folder / "up" / "1"]).rows()
    assert len(rows) == 1 and rows[0]["id"].endswith("up/1") and rows[0]["label"] in ("down", "up")
