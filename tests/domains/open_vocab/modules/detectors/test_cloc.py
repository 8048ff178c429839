"""CLOC: a region's embedding from a prompt, what it learns, and what each option does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import load_checkpoint
from torchvision.ops import generalized_box_iou

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.open_vocab.modules.detectors.cloc_prompter import BoxHead, Prompter, cell_centres, fourier
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

NAMES = ["red shape", "green shape", "blue shape"]


@pytest.fixture
def build(region_towers):
    def make(tower: str = "vit", **options):
        torch.manual_seed(0)
        return MODELS.build({"type": "vladapt.CLOC", "backbone": region_towers[tower], "classes": NAMES, **options})

    return make


def losses(model, batch: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode="loss")


# The prompter -------------------------------------------------------------------------------------------------------


def test_a_region_is_what_its_prompt_looks_at():
    """The attention by hand, of one layer and one head."""
    torch.manual_seed(0)
    prompter = Prompter(8, hidden=6)
    tokens, boxes = torch.randn(4, 8), torch.rand(3, 4)
    keys = prompter.keys(tokens, (2, 2))
    torch.testing.assert_close(keys, prompter.tokens(tokens) + prompter.place(fourier(cell_centres((2, 2), "cpu"))))
    layer = prompter.layers[0]
    prompts = prompter.box(fourier(boxes)) + prompter.kinds["box"]
    scores = layer.query(layer.ln_1(prompts)) @ layer.key(keys).T / 6**0.5
    after = prompts + layer.mixed(scores.softmax(dim=1) @ layer.value(keys))
    expected = prompter.out(after + layer.mlp(layer.ln_2(after)))
    torch.testing.assert_close(prompter.from_boxes(keys, boxes), expected)


def test_prompts_do_not_see_each_other():
    prompter = Prompter(8)
    keys, boxes, texts = prompter.keys(torch.randn(9, 8), (3, 3)), torch.rand(5, 4), torch.randn(5, 8)
    torch.testing.assert_close(prompter.from_boxes(keys, boxes)[2:3], prompter.from_boxes(keys, boxes[2:3]))
    torch.testing.assert_close(prompter.from_texts(keys, texts)[2:3], prompter.from_texts(keys, texts[2:3]))
    assert prompter.from_boxes(keys, boxes[:0]).shape == (0, 8)


def test_a_place_without_an_image_or_an_image_without_a_place_says_nothing():
    prompter = Prompter(8)
    tokens, boxes = torch.randn(9, 8), torch.rand(2, 4)
    keys = prompter.keys(tokens, (3, 3))
    seen = prompter.from_boxes(keys, boxes)
    assert not torch.allclose(seen, prompter.from_boxes(prompter.keys(torch.randn(9, 8), (3, 3)), boxes))
    assert not torch.allclose(seen, prompter.from_boxes(keys, boxes.flip(0)))
    moved = prompter.keys(tokens.flip(0), (3, 3))  # the same tokens elsewhere
    assert not torch.allclose(seen, prompter.from_boxes(moved, boxes))


def test_layers_heads_and_width_are_options():
    keys, boxes = torch.randn(4, 8), torch.rand(2, 4)
    made = {}
    for name, options in {
        "published": {},
        "deeper": {"layers": 2},
        "two heads": {"heads": 2},
        "wider": {"hidden": 16},
    }.items():
        torch.manual_seed(0)
        prompter = Prompter(8, **options)
        made[name] = prompter.from_boxes(prompter.keys(keys, (2, 2)), boxes)
        assert made[name].shape == (2, 8)
    for name in ("deeper", "two heads", "wider"):
        assert not torch.allclose(made[name], made["published"])
    with pytest.raises(ConfigError, match="heads=3"):
        Prompter(8, heads=3)
    with pytest.raises(ConfigError, match="layers=0"):
        Prompter(8, layers=0)


def test_boxes_of_the_head_are_shares_of_the_image():
    found = BoxHead(8)(torch.randn(5, 8) * 100)
    assert found.shape == (5, 4)
    assert ((found >= 0) & (found <= 1)).all()


# What it learns -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned(region_towers, packed):
    """A CLOC after 120 steps, without a Runner; a wider prompter learns to ground sooner."""
    torch.manual_seed(0)
    prompter = {"hidden": 64, "heads": 4}
    config = {"type": "vladapt.CLOC", "backbone": region_towers["vit"], "classes": NAMES, "prompter": prompter}
    model = MODELS.build({**config, "image_text_weight": 0.0})
    torch.nn.init.constant_(model.log_scale, 3.0)
    optimizer = torch.optim.AdamW(model.parameters())
    batches = [packed(8 * index, 8) for index in range(16)]
    for step in range(120):
        for group in optimizer.param_groups:
            group["lr"] = 8e-3 * min(1, (step + 1) / 10) * (1 - step / 120)
        optimizer.zero_grad()
        sum(losses(model, batches[step % 16]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@pytest.mark.thorough
def test_it_names_regions_it_never_saw(learned, build, accuracy):
    assert accuracy(build()) < 0.55  # a guess is right a third of the time
    assert accuracy(learned) > 0.8


@pytest.mark.thorough
@torch.no_grad()
def test_it_finds_what_a_text_is_about(learned, build, packed):
    def hits(model, other: bool = False) -> float:
        """Share of boxes whose middle lies in the shape that the text is about, or in the other shape."""
        data = model.data_preprocessor(packed(2000, 24))
        found = model.ground(data["inputs"], [f"a photo of a {name}." for name in NAMES])  # (B, 3, 4)
        right = []
        for boxes, sample in zip(found, data["data_samples"], strict=True):
            truth, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
            asked = boxes[labels.flip(0) if other else labels]
            middle = (asked[:, :2] + asked[:, 2:]) / 2
            right.append(((middle > truth[:, :2]) & (middle < truth[:, 2:])).all(dim=1))
        return float(torch.cat(right).float().mean())

    assert hits(learned) > 0.4
    assert hits(learned, other=True) < 0.2
    assert hits(build()) < 0.2


@torch.no_grad()
def test_grounded_regions_need_no_boxes(build, packed):
    model, batch = build(regions="grounded").eval(), packed(2000, 8)
    truth = [sample.gt_instances for sample in batch["data_samples"]]
    for sample in batch["data_samples"]:
        del sample.gt_instances
    grounded = model.ground(model.data_preprocessor(batch)["inputs"], [f"a photo of a {name}." for name in NAMES])
    for sample, boxes, region in zip(model.test_step(batch), grounded, truth, strict=True):
        torch.testing.assert_close(sample.pred_instances.bboxes, boxes.clamp(0, 32))  # one for each class
        assert len(boxes) == 3 and len(region) == 2


def test_it_trains_by_a_runner_and_comes_back(region_towers, trained, accuracy):
    config = {"type": "vladapt.CLOC", "backbone": region_towers["vit"], "classes": NAMES}
    runner = trained(config, steps=3, lr=1e-3, custom_hooks=[{"type": "vladapt.SaveBackboneHook"}])
    again = MODELS.build(config)
    load_checkpoint(again, f"{runner.work_dir}/iter_3.pth", map_location="cpu", strict=True)
    assert accuracy(again) == accuracy(runner.model)
    saved = MODELS.build({**config, "backbone": f"{runner.work_dir}/backbone"})
    trained_tower, saved_tower = runner.model.image.state_dict(), saved.image.state_dict()
    assert all(torch.equal(value, saved_tower[name]) for name, value in trained_tower.items())


# Its terms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_the_terms_are_contrast_grounding_and_clips(build, packed, tower):
    model, batch = build(tower), packed(0, 3)
    found = losses(model, batch)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples = data["data_samples"]
    regions = [sample.gt_instances for sample in samples]
    features = torch.cat(model.embed_regions(data["inputs"], regions, samples))
    labels = torch.cat([region.labels for region in regions])

    def clip(images, texts):
        logits, own = model.logit_scale * images @ texts.T, torch.arange(len(images))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    torch.testing.assert_close(found["loss_region"], clip(features, model.texts()[labels]))
    images = F.normalize(model.image.backbone.encode_image(data["inputs"]), dim=1)
    captions = model.encode_texts([sample.caption for sample in samples])
    torch.testing.assert_close(found["loss_image_text"], clip(images, captions), rtol=1e-4, atol=1e-4)

    prompts = [model.texts()[region.labels] for region in regions]
    grounded = torch.cat([model._ground(data["inputs"][i : i + 1], rows)[0] for i, rows in enumerate(prompts)]) / 32
    truth = torch.cat([region.bboxes for region in regions]) / 32
    centres = [torch.cat([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], dim=1) for b in (grounded, truth)]
    l1 = (centres[0] - centres[1]).abs().sum(dim=1).mean()
    giou = (1 - generalized_box_iou(grounded, truth).diagonal()).mean()
    torch.testing.assert_close(found["loss_grounding"], 5 * l1 + 2 * giou, rtol=1e-4, atol=1e-4)


def test_two_ranks_learn_from_the_captions_of_both(build, alike_on_two_ranks):
    alike_on_two_ranks(build(region_weight=0, grounding_weight=0), losses)


def test_each_option_of_training_counts(build, packed):
    batch = packed(0, 4)

    def total(**options) -> torch.Tensor:
        return sum(losses(build(**options), batch).values()).detach()

    published = total()
    changed = {
        "prompter": {"layers": 2},
        "regions_sampled": 1,
        "region_weight": 0.5,
        "grounding_weight": 0.0,
        "image_text_weight": 2.0,
        "box_weights": (1.0, 1.0),
        "templates": "name",
    }
    for name, value in changed.items():
        assert not torch.allclose(total(**{name: value}), published), name


def test_texts_of_regions_go_before_the_names_of_their_classes(build, packed):
    model, batch = build(), packed(0, 2)
    by_class = losses(model, batch)["loss_region"]
    for sample in batch["data_samples"]:
        sample.gt_instances.texts = ["a shape on the left", "a shape on the right"]
    assert not torch.allclose(losses(model, batch)["loss_region"], by_class)


def test_terms_that_are_left_out_are_left_out(build, packed):
    assert set(losses(build(), packed(0, 2))) == {"loss_region", "loss_grounding", "loss_image_text"}
    only = build(region_weight=0, grounding_weight=0)
    assert set(losses(only, packed(0, 2))) == {"loss_image_text"}
    batch = packed(0, 2)
    for sample in batch["data_samples"]:
        del sample.caption
    assert set(losses(build(image_text_weight=0), batch)) == {"loss_region", "loss_grounding"}
    with pytest.raises(DataError, match="no caption"):
        losses(build(), batch)


def test_every_part_is_trained(build, packed):
    model = build()
    sum(losses(model, packed(0, 3)).values()).backward()
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert still == []


def test_an_image_without_regions_is_no_end(build, packed):
    model, batch = build(image_text_weight=0), packed(0, 2)
    for sample in batch["data_samples"]:
        sample.gt_instances = sample.gt_instances[:0]
    found = losses(model, batch)
    sum(found.values()).backward()
    assert float(sum(found.values()).detach()) == 0
    assert len(model.eval().test_step(batch)[0].pred_instances.scores) == 0


@torch.no_grad()
def test_new_names_at_any_time(build, packed):
    model = build().eval()
    set_classes(model, "cat, dog, tree, car, house")
    found = model.test_step(packed(0, 1))[0].pred_instances
    assert model.classify(torch.randn(2, 24)).shape == (2, 5)
    assert found.labels.max() < 5


@torch.no_grad()
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_images_of_other_sizes(build, packed, tower):
    model = build(tower)
    batch = packed(0, 2)
    batch["inputs"] = [F.pad(image, (0, 40)) for image in batch["inputs"]]
    found = losses(model, batch)
    assert all(value.isfinite() for value in found.values())
    assert len(model.eval().test_step(batch)[0].pred_instances.scores) == 2


def test_what_cannot_be_used_is_said(build):
    for name, value in {"regions": "found", "regions_sampled": 0, "region_weight": -1.0}.items():
        with pytest.raises(ConfigError, match=name):
            build(**{name: value})
