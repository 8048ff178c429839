"""OWL-ViT: patches, layers left out, losses, detections, other names and example images."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("vladapt.domains.open_vocab")  # the operators, before modules of mmdet ask for them
pytest.importorskip("open_clip", reason="extra open-clip is not installed")

from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from vladapt import CapabilityError, ConfigError
from vladapt.core.testing.towers import drawn_clip
from vladapt.domains.open_vocab.modules.detectors.owlvit.detector import OWLViT
from vladapt.domains.open_vocab.modules.detectors.owlvit.heads import box_bias
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 2},
}
NAMES = "cat, dog, red bird, tree"


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    (folder / "c.json").write_text(json.dumps(CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = drawn_clip(CONFIG)
        model.token_embedding.weight.data.mul_(10)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "c.safetensors")
    return f"open_clip:{folder / 'c.json'}@{folder / 'c.safetensors'}"


def build(spec, classes=NAMES, **options):
    torch.manual_seed(0)
    return OWLViT(spec, classes, **{"templates": "photo", **options})


@pytest.fixture
def model(spec):
    return build(spec)


def sample(boxes=((2, 2, 14, 12), (10, 12, 30, 31)), labels=(0, 2), shape=(32, 32), **about):
    found = DetDataSample(metainfo={"img_shape": shape, "ori_shape": shape, "scale_factor": (1.0, 1.0), **about})
    found.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).float().view(-1, 4), labels=torch.tensor(labels).long()
    )
    return found


def pixels(batch=2, size=(32, 32), seed=0):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


# Patches --------------------------------------------------------------------------------------------------------------


def test_boxes_begin_where_their_patches_are(model):
    with torch.no_grad():
        boxes = model.boxes(*model.extract_feat(pixels()))
    torch.testing.assert_close(boxes, box_bias((4, 4)).sigmoid().expand_as(boxes))
    assert boxes[0, 5].tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25], abs=1e-3)


@torch.no_grad()
def test_the_class_token_is_multiplied_into_each_patch_and_normalised(model, spec):
    backbone = model.tower.backbone
    visual = backbone.model.visual
    tokens = visual.ln_post(backbone.run_blocks("image", backbone.embed_image(pixels())))
    wanted = F.layer_norm(tokens[:, 1:] * tokens[:, :1], (32,))
    torch.testing.assert_close(model.eval().extract_feat(pixels())[0], wanted)
    dropped = build(spec, merge_class_token="drop").eval().extract_feat(pixels())[0]
    torch.testing.assert_close(dropped, tokens[:, 1:])


@torch.no_grad()
def test_an_image_is_padded_to_a_square_of_whole_patches(model):
    patches, grid = model.eval().extract_feat(pixels(size=(20, 37)))
    assert grid == (5, 5) and patches.shape == (2, 25, 32)
    padded = F.pad(pixels(size=(20, 37)), (0, 3, 0, 20))
    torch.testing.assert_close(model.extract_feat(padded)[0], patches)


def test_layers_are_left_out_in_training_only_and_later_ones_more_often(spec):
    model = build(spec, image_droplayer=0.6)
    blocks = model.tower.backbone.blocks("image")
    model.eval()
    torch.testing.assert_close(model.extract_feat(pixels())[0], model.extract_feat(pixels())[0])
    model.train()
    kept = [
        torch.stack([block.mlp(torch.ones(200, 1, 32)).abs().sum(dim=(1, 2)) > 0]).float().mean().item()
        for block in blocks
    ]
    assert kept == pytest.approx([1.0, 0.7, 0.4], abs=0.1)
    assert not torch.equal(model.extract_feat(pixels())[0], model.extract_feat(pixels())[0])
    still = build(spec, image_droplayer=0.0, text_droplayer=0.0).train()
    assert torch.equal(still.extract_feat(pixels())[0], still.extract_feat(pixels())[0])


def test_what_is_left_out_is_not_made_up_for(spec):
    model = build(spec, image_droplayer=0.6).train()
    block = model.tower.backbone.blocks("image")[-1]
    given = torch.randn(300, 1, 32)
    whole = block.mlp.eval()(given)
    block.mlp.train()
    dropped = block.mlp(given)
    zero = (dropped == 0).all(dim=(1, 2))
    assert 0 < zero.sum() < 300
    torch.testing.assert_close(dropped[~zero], whole[~zero])


def test_texts_lose_layers_too(spec):
    names = [f"thing {i}" for i in range(20)]
    frozen = build(spec, names, text_droplayer=0.0, train_templates=None).train()
    dropping = build(spec, names, text_droplayer=0.9, train_templates=None).train()
    shown = [torch.tensor([0])]
    same, other = ([m.queries.draw(shown).embeddings.detach().sum(dim=1) for _ in range(2)] for m in (frozen, dropping))
    torch.testing.assert_close(*same)
    assert not torch.allclose(*other)


# Texts -------------------------------------------------------------------------------------------------------------


def test_a_trained_text_tower_is_part_of_the_model_and_a_frozen_one_is_not(spec):
    trained, frozen = build(spec), build(spec, train_text=False)
    assert any(name.startswith("text.") for name in trained.state_dict())
    assert not any("transformer.resblocks" in name and "text" in name for name in frozen.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(trained.eval().queries(), frozen.queries(), rtol=1e-4, atol=1e-5)


def test_every_parameter_that_is_trained_gets_a_gradient(model):
    model.train()
    model.tower.backbone.blocks("image")
    for module in model.modules():
        module._forward_hooks.clear()  # a layer that is left out has no gradient
    model.box_head.dense2.weight.data.normal_()  # zero to begin with: nothing passes it back
    sum(model.loss(pixels(), [sample(), sample(labels=(1, 3))]).values()).backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent


def test_after_a_step_texts_are_encoded_by_the_tower_as_it_is_now(model):
    before = model.eval().queries().clone()
    model.train().loss(pixels(), [sample(), sample()])
    with torch.no_grad():
        next(p for name, p in model.text.named_parameters() if "resblocks" in name and p.dim() == 2).add_(0.5)
    after = model.eval().queries()
    assert not torch.allclose(before, after)
    assert model.queries() is model.queries(), "computed once"


# Losses ---------------------------------------------------------------------------------------------------------------


def total(model, samples, seed=0):
    torch.manual_seed(seed)
    return sum(model.train().loss(pixels(len(samples)), samples).values()).item()


@pytest.mark.parametrize(
    "option",
    [
        {"box_bias": "none"},
        {"box_bias": "size"},
        {"merge_class_token": "drop"},
        {"prior": 0.3},
        {"negatives": 0},
        {"max_queries": 1},
        {"merge_iou": None},
        {"objectness": True},
        {"image_droplayer": 0.0},
        {"text_droplayer": 0.0},
        {"train_templates": None},
        {"canonical_text": False},
        {"train_text": False},
        {"loss": {"alpha": 0.9}},
        {"templates": "imagenet-7", "train_templates": None},
    ],
    ids=lambda option: "-".join(map(str, next(iter(option.items())))),
)
def test_every_option_changes_the_training(spec, option):
    twins = [[2, 2, 14, 12], [2, 2, 14, 12.5]]
    samples = [sample(twins, (0, 2)), sample(labels=(1, 3))]
    assert total(build(spec, **option), samples) != pytest.approx(total(build(spec), samples), abs=1e-7)


@pytest.mark.parametrize(("share", "count"), [(0.1, 2), (0.5, 8), (1.0, 16)])
def test_with_objectness_the_patches_that_promise_most_learn(spec, share, count):
    model = build(spec, objectness=True, kept_patches=share).train()
    seen = []
    model.matching.register_forward_pre_hook(lambda module, given: seen.append(given))
    torch.nn.init.normal_(model.objectness_head.dense2.weight)
    losses = model.loss(pixels(), [sample(), sample()])
    assert set(losses) == {"loss_class", "loss_bbox", "loss_giou", "loss_objectness"}
    logits, boxes, _ = seen[0]
    assert logits.shape[:2] == boxes.shape[:2] == (2, count)
    losses["loss_objectness"].backward()
    assert model.objectness_head.dense2.weight.grad.any()
    assert all(parameter.grad is None for parameter in model.tower.parameters()), "it only listens"


def test_objectness_learns_how_well_a_patch_answers(spec):
    model = build(spec, objectness=True, kept_patches=1.0, image_droplayer=0.0, text_droplayer=0.0).train()
    torch.manual_seed(0)
    loss = model.loss(pixels(), [sample(), sample()])["loss_objectness"]
    torch.manual_seed(0)
    drawn = model.queries.draw([torch.tensor([0, 2])] * 2)
    patches, _ = model.extract_feat(pixels())
    answers = model.class_head(patches, drawn.embeddings, drawn.mask).sigmoid().amax(dim=-1).detach()
    expected = F.binary_cross_entropy_with_logits(model.objectness(patches), answers)
    torch.testing.assert_close(loss, expected)


def test_an_image_without_boxes_trains(model):
    losses = model.train().loss(pixels(1), [sample((), ())])
    sum(losses.values()).backward()
    assert losses["loss_bbox"] == 0


def test_it_trains_under_autocast(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.train().loss(pixels(), [sample(), sample()])
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())


def test_known_negatives_of_a_sample_are_asked_for(spec):
    model = build(spec, [f"thing {i}" for i in range(40)], negatives=1)
    asked = []
    draw = model.queries.draw
    model.queries.draw = lambda *given: asked.append(draw(*given)) or asked[-1]
    model.train().loss(pixels(1), [sample(facts={"absent": [33, 2]})])
    assert asked[0].classes[0].tolist() == [0, 2, 33]


# Detections -----------------------------------------------------------------------------------------------------------


def detect(model, image, **about):
    return model.eval().predict(image[None], [sample(**about)])[0].pred_instances


def planted(spec, **options):
    """A model whose second patch is sure of the third class and whose boxes are where the patches are."""
    model = build(spec, **options)
    scores = torch.full((1, 16, 4), -6.0)
    scores[0, 5, 2], scores[0, 6, 2] = 4.0, 3.0
    boxes = box_bias((4, 4)).sigmoid()[None].clone()
    boxes[0, 6] = boxes[0, 5] + torch.tensor([0.02, 0, 0, 0])
    model._forward = lambda inputs, samples=None: (scores, boxes)
    return model


def test_detections_are_in_pixels_of_the_original_image(spec):
    image = torch.zeros(3, 24, 32)
    found = detect(planted(spec), image, scale_factor=(0.5, 0.5), shape=(48, 64))
    assert found.labels[0] == 2 and found.scores[0] == pytest.approx(0.982, abs=1e-3)
    assert found.bboxes[0].tolist() == pytest.approx([24, 24, 40, 40], abs=0.1)
    assert found.bboxes[:, 2].max() <= 64 and found.bboxes[:, 3].max() <= 48 and found.bboxes.min() >= 0
    plain = planted(spec).eval().predict(image[None], [sample(shape=(24, 32))], rescale=False)[0].pred_instances
    assert plain.bboxes[0].tolist() == pytest.approx([12, 12, 20, 20], abs=0.1)


def test_options_of_the_test_choose_among_detections(spec):
    image = torch.zeros(3, 32, 32)
    assert len(detect(planted(spec), image)) == 64, "16 patches, 4 classes"
    assert len(detect(planted(spec, max_per_img=7), image)) == 7
    assert len(detect(planted(spec, score_thr=0.5), image)) == 2
    assert len(detect(planted(spec, score_thr=0.5, nms_iou=0.5), image)) == 1
    scores = detect(planted(spec), image).scores
    assert torch.equal(scores, scores.sort(descending=True).values)


def test_raw_outputs_are_logits_and_boxes(model):
    logits, boxes = model.eval()(pixels(), None, mode="tensor")
    assert logits.shape == (2, 16, 4) and boxes.shape == (2, 16, 4)


# Other names, example images, copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("train_text", [True, False])
def test_new_names_are_looked_for_at_once(spec, train_text):
    model = build(spec, train_text=train_text).eval()
    set_classes(model, "zebra, cat")
    logits, _ = model(pixels(), None, mode="tensor")
    assert logits.shape[-1] == 2 and model.queries.names == ("zebra", "cat")
    same = build(spec, train_text=train_text).eval()(pixels(), None, mode="tensor")[0]
    torch.testing.assert_close(logits[..., 1], same[..., 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train_text", [True, False])
def test_a_checkpoint_loads_into_a_model_with_other_names(spec, train_text):
    trained = build(spec, train_text=train_text)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    other = build(spec, "zebra, cat, dog", train_text=train_text)
    other.eval().queries()
    other.load_state_dict(trained.state_dict())
    logits = other(pixels(), None, mode="tensor")[0]
    expected = trained.eval()(pixels(), None, mode="tensor")[0]
    torch.testing.assert_close(logits[..., 1:], expected[..., :2], rtol=1e-3, atol=1e-4)


def test_an_example_image_is_a_query(model):
    examples = pixels(3, seed=1)
    with torch.no_grad():
        rows = F.normalize(model.eval().embed_image_queries(examples), dim=-1)
    model.set_image_queries(examples, ["a", "b", "a"])
    assert model.queries.names == ("a", "b")
    torch.testing.assert_close(model.queries()[0], (rows[0] + rows[2]) / 2)
    found = detect(model, pixels()[0])
    assert set(found.labels.tolist()) == {0, 1}
    model.train().loss(pixels(), [sample(labels=(0, 1)), sample(labels=(1, 1))])
    set_classes(model, NAMES)
    assert model.eval()(pixels(), None, mode="tensor")[0].shape[-1] == 4
    with pytest.raises(ConfigError, match="2 names for 3 images"):
        model.set_image_queries(examples, ["a", "b"])


def test_a_box_says_which_part_of_an_example_is_meant(model):
    model.eval()
    corner = model.embed_image_queries(pixels(1), torch.tensor([[4.0, 4, 12, 12]]))
    other = model.embed_image_queries(pixels(1), torch.tensor([[20.0, 20, 28, 28]]))
    patches, _ = model.extract_feat(pixels(1))
    torch.testing.assert_close(corner[0], model.class_head.embed(patches)[0, 0])
    torch.testing.assert_close(other[0], model.class_head.embed(patches)[0, 10])


def test_a_copy_is_a_model_of_its_own(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    mine, its = (m.eval()(pixels(), None, mode="tensor")[0] for m in (model, twin))
    assert not torch.allclose(mine, its)
    assert twin.tower.backbone.model.visual.conv1.weight is not model.tower.backbone.model.visual.conv1.weight


def test_configs_name_it_and_pixels_are_the_backbones(spec):
    model = MODELS.build({"type": "vladapt.OWLViT", "backbone": spec, "classes": ["cat"], "templates": "name"})
    image = torch.from_numpy(np.full((3, 16, 24), 255, np.uint8))
    data = model.data_preprocessor({"inputs": [image], "data_samples": [sample(shape=(16, 24))]})
    wanted = (1 - torch.tensor(model.tower.backbone.image_mean)) / torch.tensor(model.tower.backbone.image_std)
    torch.testing.assert_close(data["inputs"][0, :, 0, 0], wanted.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box_bias": "centre"}, "box_bias='centre'"),
        ({"merge_class_token": "add"}, "merge_class_token='add'"),
        ({"image_droplayer": 1.0}, "image_droplayer=1.0"),
        ({"text_droplayer": -0.1}, "text_droplayer=-0.1"),
        ({"kept_patches": 0}, "kept_patches=0"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(spec, options, message):
    with pytest.raises(ConfigError, match=message):
        build(spec, **options)


def test_a_backbone_without_a_vision_transformer_is_refused():
    with pytest.raises(CapabilityError, match="embedded"):
        OWLViT("embedded", "cat")


def test_objectness_is_asked_of_models_that_have_it(model):
    with pytest.raises(ConfigError, match="objectness=True"):
        model.objectness(torch.zeros(1, 4, 32))
