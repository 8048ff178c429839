"""Closed detectors of transformers inside mmdet: their losses, gradients and boxes are transformers' own."""

import copy
import re

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch
import transformers
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.exporting.queries import QueryGraph
from vladapt.domains.open_vocab.hub_models.family import Family, family_class, model_types, plain_config
from vladapt.domains.open_vocab.hub_models.growing import grown
from vladapt.domains.open_vocab.hub_models.processor import image_processor
from vladapt.domains.open_vocab.hub_models.source import hub_model
from vladapt.domains.open_vocab.hub_models.starting import _schedule, on_source
from vladapt.domains.open_vocab.modules.detectors.hf_detector import HFDetector, preprocessor_of
from vladapt.domains.open_vocab.remembering.low_rank import add_low_rank
from vladapt.domains.open_vocab.tasks._by_names import RECIPES
from vladapt.registry import MODELS

from . import tiny

TYPES = ("rt_detr_v2", "d_fine", "rf_detr", "rf_detr_masks", "rt_detr", "deimv2", "lw_detr", "detr")
TYPES += ("deformable_detr", "conditional_detr", "yolos")
SHAPES = {"detr": (48, 80), "deformable_detr": (48, 80), "conditional_detr": (48, 80), "yolos": (48, 80)}
MOST = {"deformable_detr": {"top_k": 100}, "conditional_detr": {"top_k": 100}, "lw_detr": {"top_k": 20}}
ONE_RATE = ("yolos", "detr", "conditional_detr")
"""Of DETR and its kin transformers freezes a ResNet of its own; that of timm, as published ones have it, it trains."""


class Pair:
    """A model of transformers, and the same weights inside mmdet."""

    def __init__(self, kind: str):
        self.kind = kind
        self.model, processor = getattr(tiny, kind)()
        self.processor = {**processor, "kind": processor["image_processor_type"]}
        self.config = plain_config(self.model.config.to_dict() | {"architectures": [type(self.model).__name__]})
        kept = {key: value for key, value in self.processor.items() if key != "image_processor_type"}
        self.ours = HFDetector(self.config, tiny.NAMES, kept)
        self.ours.model.load_state_dict(self.model.state_dict())
        self.model.config.auxiliary_loss = self.ours.model.config.__dict__.get("auxiliary_loss", False)
        self.shape = SHAPES.get(kind, (tiny.SIDE, tiny.SIDE))
        drawn = torch.Generator().manual_seed(3)
        self.pixels = torch.randn(2, 3, *self.shape, generator=drawn)

    def samples(self, counts=(2, 1), shapes=None) -> list[DetDataSample]:
        samples = []
        for number, count in enumerate(counts):
            height, width = (shapes or [self.shape] * len(counts))[number]
            corners = torch.tensor([[4.0, 6.0, 28.0, 30.0], [10.0, 8.0, 40.0, 44.0]])[:count]
            masks = torch.zeros(count, height, width, dtype=torch.uint8)
            for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist()):
                mask[y0:y1, x0:x1] = 1
            truth = InstanceData(bboxes=corners, labels=torch.tensor([0, 2])[:count])
            truth.masks = BitmapMasks(masks.numpy(), height, width)
            about = {"img_shape": (height, width), "ori_shape": (2 * height, 3 * width)}
            samples.append(DetDataSample(gt_instances=truth, metainfo=about))
        return samples

    def labels(self, samples) -> list[dict]:
        """As transformers takes them, written out."""
        listed = []
        for sample in samples:
            height, width = sample.img_shape
            boxes = [
                [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
                for x0, y0, x1, y1 in sample.gt_instances.bboxes.tolist()
            ]
            masks = torch.from_numpy(sample.gt_instances.masks.masks).float()
            label = {"class_labels": sample.gt_instances.labels, "boxes": torch.tensor(boxes).reshape(-1, 4)}
            listed.append({**label, "masks": masks})
        return listed


@pytest.fixture(scope="module")
def pairs():
    made = {}
    return lambda kind: made[kind] if kind in made else made.setdefault(kind, Pair(kind))


def test_every_listed_closed_type_is_tested():
    closed = {name for name in model_types() if family_class(name, "a test").gives == "boxes"}
    closed = {name for name in closed if family_class(name, "a test").asked_by == "head"}
    assert closed == set(TYPES) - {"rf_detr_masks"}


@pytest.mark.parametrize("kind", TYPES)
def test_loss_and_gradient_are_those_of_transformers(pairs, kind):
    pair = pairs(kind)
    samples = pair.samples()
    pair.model.train(), pair.ours.train()
    pair.model.zero_grad(), pair.ours.zero_grad()
    inputs = {} if kind == "yolos" else {"pixel_mask": torch.ones(2, *pair.shape, dtype=torch.long)}
    torch.manual_seed(7)
    theirs = pair.model(pixel_values=pair.pixels, **inputs, labels=pair.labels(samples)).loss
    theirs.backward()
    torch.manual_seed(7)
    parts = pair.ours.loss(pair.pixels, samples)
    ours = sum(parts.values())
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    wanted = dict(pair.model.named_parameters())
    for name, weight in pair.ours.model.named_parameters():
        there = wanted[name].grad
        assert (weight.grad is None) == (there is None), name
        if there is not None:
            torch.testing.assert_close(weight.grad, there, rtol=1e-4, atol=1e-5)
    for dropped in parts:  # each part counts
        part = parts[dropped].detach()
        assert part.abs() > 1e-7 or "ddf" in dropped or ("box" in dropped and "dn" in dropped), dropped


@pytest.mark.parametrize("kind", ("detr", "lw_detr", "rf_detr_masks"))
def test_the_configuration_is_made_once_and_not_in_every_step(pairs, kind, monkeypatch):
    pair = pairs(kind)
    pair.ours.eval()  # batch norms stay as they are for the tests that follow
    first = pair.ours.loss(pair.pixels, pair.samples())
    monkeypatch.setattr(pair.ours.family, "transformers_config", lambda: pytest.fail("made again"))
    assert pair.ours.loss(pair.pixels, pair.samples()).keys() == first.keys()


@pytest.mark.parametrize("kind", TYPES)
def test_boxes_and_masks_are_those_of_the_processor(pairs, kind):
    pair = pairs(kind)
    samples = pair.samples()
    pair.model.eval(), pair.ours.eval()
    with torch.no_grad():
        outputs = pair.model(pixel_values=pair.pixels)
    options = {key: value for key, value in pair.processor.items() if key not in ("kind", "image_processor_type")}
    processor = getattr(transformers, pair.processor["kind"])(**options)
    sizes = [sample.ori_shape for sample in samples]
    how = {"threshold": 0.0, "target_sizes": sizes}
    wanted = processor.post_process_object_detection(outputs, **how, **MOST.get(kind, {}))
    pair.ours.score_thr = 0.0
    found = pair.ours.predict(pair.pixels, samples)
    for theirs, sample in zip(wanted, found, strict=True):
        ours = sample.pred_instances
        torch.testing.assert_close(ours.scores, theirs["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.bboxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
        assert (ours.labels == theirs["labels"]).float().mean() > 0.9  # of equal scores either may be first
    if kind == "rf_detr_masks":
        masks = processor.post_process_instance_segmentation(outputs, **how, return_binary_maps=True)
        for theirs, sample in zip(masks, found, strict=True):
            ours = sample.pred_instances.masks
            assert ours.shape[1:] == sample.ori_shape
            assert torch.equal(ours[ours.flatten(1).any(dim=1)], theirs["segmentation"])


@pytest.mark.parametrize("kind", TYPES)
def test_a_batch_without_objects_has_a_loss_and_gradients(pairs, kind):
    pair = pairs(kind)
    pair.ours.train()
    pair.ours.zero_grad()
    loss, parts = pair.ours.parse_losses(pair.ours.loss(pair.pixels, pair.samples((0, 0))))
    loss.backward()
    assert all(torch.isfinite(value).all() for value in parts.values())
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in pair.ours.parameters())


@pytest.mark.parametrize("normalized", (False, True))
@pytest.mark.parametrize("kind", ("rt_detr_v2", "d_fine", "detr", "yolos"))
def test_pixels_are_those_of_the_processor_to_the_last_bit(pairs, kind, normalized):
    """A difference of the last bit of a pixel is a difference of all weights after a step of Adam."""
    how = {key: value for key, value in pairs(kind).processor.items() if key != "image_processor_type"}
    prepared = image_processor({**how, "do_normalize": normalized})
    picture = torch.arange(256, dtype=torch.uint8).repeat(3, 16, 1)[:, :, :80]
    picture[1] += 80
    picture[2] += 160
    wanted = prepared.processor([picture], return_tensors="pt")["pixel_values"]
    ours = MODELS.build(preprocessor_of(prepared, "boxes"))
    batch = {"inputs": [prepared.resized(picture)[[2, 1, 0]]], "data_samples": [DetDataSample(metainfo={})]}
    assert torch.equal(ours(batch)["inputs"], wanted) and len(wanted.unique()) > 100


@pytest.mark.parametrize("kind", TYPES)
def test_a_head_grows_by_name_and_keeps_what_it_knows(pairs, kind):
    pair = pairs(kind)
    old, names = pair.model.state_dict(), ("green star", "yellow square", "Red Circle", "pink ring")
    kept = {key: value for key, value in pair.processor.items() if key != "image_processor_type"}
    torch.manual_seed(5)
    new = HFDetector(pair.config, names, kept)
    state = grown(old, new.model.state_dict(), new.family, tiny.NAMES, names)
    differing = {name for name, value in new.model.state_dict().items() if value.shape != old[name].shape}
    assert differing
    for name, value in state.items():
        if name not in differing:
            assert torch.equal(value, old[name]), name
            continue
        assert torch.equal(value[[0, 2]], old[name][[2, 0]]), name
        assert torch.equal(value[[1, 3]], new.model.state_dict()[name][[1, 3]]), name
        assert torch.equal(value[len(names) :], old[name][len(tiny.NAMES) :]), name  # no object
    new.model.load_state_dict(state)
    pair.model.eval(), new.eval()
    with torch.no_grad():
        before, after = pair.model(pixel_values=pair.pixels), new.model(pixel_values=pair.pixels)
    if kind in ("detr", "conditional_detr", "yolos"):  # queries that no class chooses
        torch.testing.assert_close(after.logits[..., [0, 2]], before.logits[..., [2, 0]])


@pytest.mark.parametrize("kind", TYPES)
def test_every_weight_is_in_the_optimizer_once(pairs, kind):
    pair = pairs(kind)
    schedule = _schedule(pair.ours.family.rates)["optim_wrapper"]
    wrapper = build_optim_wrapper(pair.ours, schedule)
    groups = [weight for group in wrapper.optimizer.param_groups for weight in group["params"]]
    wanted = {id(weight) for weight in pair.ours.parameters() if weight.requires_grad}
    assert len(groups) == len(wanted) and {id(weight) for weight in groups} == wanted
    rates = {group["lr"] for group in wrapper.optimizer.param_groups}
    assert len(rates) == (1 if kind in ONE_RATE else 2)


@pytest.mark.parametrize("kind", ("d_fine", "yolos", "rf_detr"))
def test_a_training_has_the_rates_of_its_type(kind, tmp_path):
    source = hub_model(f"hf:{tiny.saved(tmp_path / kind, *getattr(tiny, kind)())}")
    recipe = Config.fromfile(str(RECIPES / "hf_detector.py")).to_dict()
    plan, rates = on_source({**recipe, "custom_hooks": [{"type": "Own"}]}, source), source.family_class.rates
    how = plan["optim_wrapper"]
    assert (how["optimizer"]["lr"], how["optimizer"]["weight_decay"]) == (rates.lr, rates.weight_decay)
    assert how["paramwise_cfg"]["custom_keys"] == rates.parts and how["clip_grad"] == {"max_norm": rates.clip}
    assert [hook["type"] for hook in plan["custom_hooks"]] == ["Own", *["EMAHook"] * (rates.ema is not None)]


@pytest.mark.parametrize("kind", ("yolos", "rt_detr_v2"))
def test_rows_of_a_closed_head_train_whole_beside_matrices_of_low_rank(pairs, kind):
    model = copy.deepcopy(pairs(kind).ours)
    add_low_rank(model, 4)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    rows = {
        f"model.{name}"
        for name, _ in model.model.named_parameters()
        if any(re.fullmatch(pattern, name) for pattern in model.family.head)
    }
    assert rows and rows <= trained and all("parametrizations" in name for name in trained - rows)


@pytest.mark.parametrize("kind", ("detr", "deformable_detr", "conditional_detr", "rt_detr_v2"))
def test_images_of_a_batch_may_have_different_sizes(pairs, kind):
    pair = pairs(kind)
    pair.ours.train()
    height, width = pair.shape
    samples = pair.samples((1, 2), [(height, width), (height, width - 16)])
    targets = pair.ours.family.targets(samples, pair.shape)
    theirs = pair.labels(samples)
    for ours, other in zip(targets, theirs, strict=True):
        torch.testing.assert_close(ours["boxes"], other["boxes"])
    mask = pair.ours._inputs(pair.pixels, samples)["pixel_mask"]
    assert mask[0].all() and not mask[1, :, width - 16 :].any() and mask[1, :, : width - 16].all()


def test_boxes_without_area_are_left_out(pairs):
    pair = pairs("rt_detr_v2")
    samples = pair.samples((2, 1))
    samples[0].gt_instances.bboxes[0] = torch.tensor([5.0, 5.0, 5.0, 20.0])
    assert [len(target["boxes"]) for target in pair.ours.family.targets(samples, pair.shape)] == [1, 1]


def test_losses_of_all_layers_are_on_where_the_checkpoint_has_them_off(pairs):
    pair = pairs("detr")
    assert pair.config["auxiliary_loss"] is False
    assert "loss_bbox_0" in pair.ours.loss(pair.pixels, pair.samples())


def test_parts_are_divided_by_the_boxes_of_all_processes(pairs, monkeypatch):
    pair = pairs("rt_detr_v2")
    pair.ours.train()
    alone = pair.ours.loss(pair.pixels, pair.samples())
    monkeypatch.setattr("vladapt.domains.open_vocab.hub_models.family.get_world_size", lambda: 2)
    monkeypatch.setattr("vladapt.domains.open_vocab.hub_models.family.all_reduce", lambda mean, how: mean.fill_(6.0))
    torch.manual_seed(7)
    parts = pair.ours.loss(pair.pixels, pair.samples())
    torch.testing.assert_close(parts["loss_bbox"], alone["loss_bbox"] * 3 / 6)
    torch.testing.assert_close(parts["loss_vfl"], alone["loss_vfl"] * 3 / 6)


def test_a_family_says_what_it_gives():
    assert issubclass(family_class("rt_detr_v2", "a test"), Family)


def test_a_map_of_one_pixel_is_told_with_what_helps(pairs):
    """Groups of one channel: a norm of one pixel of one image has nothing to compare."""
    model, pixels = copy.deepcopy(pairs("deformable_detr").ours), torch.randn(1, 3, 16, 16)
    for part in model.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.num_groups = part.num_channels
    sample = pairs("deformable_detr").samples((1,), [(16, 16)])
    for ask in (
        lambda: model.loss(pixels, sample),
        lambda: model.predict(pixels, sample),
        lambda: QueryGraph(model)(pixels),
    ):
        with pytest.raises(ConfigError, match=r"deformable_detr: a map of these images has one pixel.*processor.size"):
            ask()
