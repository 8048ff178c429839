"""SegCLIP: what it learns from captions, and what it finds."""

import copy
import json

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("open_clip", reason="extra open-clip is not installed")

from mmseg.structures import SegDataSample

from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.domains.open_vocab.modules.segmentors.segclip.group import (
    caption_tokens,
    part_of_captions,
)
from vladapt.domains.open_vocab.modules.segmentors.segclip.segmentor import WEIGHTS
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.domains.open_vocab.vocabulary import Vocabulary, embed_classes, encode_classes
from vladapt.registry import MODELS

SIDE = 32
VISION = {"image_size": SIDE, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 20, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 2}
DECODER = {"depth": 1, "heads": 2}
CAPTIONS = ("a red car on the road", "two dogs", "a very big tree behind a house near the river")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    from safetensors.torch import save_file

    from vladapt.core.testing.towers import drawn_clip

    folder, config = tmp_path_factory.mktemp("segclip"), {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    (folder / "tiny.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = drawn_clip(config)
        tower.token_embedding.weight.data.mul_(20)
    state = {name: value.contiguous() for name, value in tower.state_dict().items()}
    save_file(state, folder / "tiny.safetensors")
    return f"open_clip:{folder / 'tiny.json'}@{folder / 'tiny.safetensors'}"


def built(spec, **options):
    torch.manual_seed(0)
    given = {"classes": "background, car, dog, tree", "decoder": DECODER, "tower": {"first_blocks": 2}, **options}
    return MODELS.build({"type": "vladapt.SegCLIP", "backbone": spec, **given})


def batch(size=(SIDE, SIDE), **changes):
    pixels = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    superpixels = np.arange(size[0] * size[1]).reshape(size) // 200
    facts = {"img_shape": size, "ori_shape": size, "pad_shape": size, "superpixels": superpixels, **changes}
    return pixels, [SegDataSample(metainfo={"caption": caption, **facts}) for caption in CAPTIONS]


def losses_of(model, **changes):
    torch.manual_seed(1)
    return model(*batch(**changes), mode="loss")


@pytest.fixture
def model(spec):
    return built(spec, weights={"text_reconstruction": 1.0})


# Training -----------------------------------------------------------------------------------------------------------


def test_defaults_are_the_published_ones(small_clip_spec, spec):
    model = MODELS.build({"type": "vladapt.SegCLIP", "backbone": spec, "classes": "cat", "decoder": {"heads": 2}})
    assert model.weights == {"contrastive": 1, "superpixel": 1, "reconstruction": 1, "text_reconstruction": 0}
    assert (model.patch_mask, model.word_mask, model.max_words) == (0.75, 0.15, 32)
    group = model.tower.group
    assert group.semantic_center.shape[0] == 8 and len(group.cross_att) == 2 and group.tau == 0.9
    assert model.tower.first_blocks == 2  # ten of twelve, of three
    assert len(model.patch_decoder.blocks) == 3 and model.patch_decoder.width == 16
    assert not hasattr(model, "word_decoder")


def test_every_loss_reaches_what_it_teaches(model):
    losses = losses_of(model)
    assert set(losses) == {f"loss_{name}" for name in WEIGHTS}
    sum(losses.values()).backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
    taught = {
        "loss_contrastive": model.clip.visual.transformer.resblocks[2].mlp.c_fc.weight,
        "loss_superpixel": model.tower.group.semantic_center,
        "loss_reconstruction": model.patch_decoder.leave.weight,
        "loss_text_reconstruction": model.word_decoder.mask_token,
    }
    for name, parameter in taught.items():
        gradient = torch.autograd.grad(losses_of(model)[name], parameter)[0]
        assert gradient.abs().max() > 0, name


def test_the_contrastive_loss_is_clips(model):
    model.eval()
    pixels, _ = batch()
    image = torch.nn.functional.normalize(model.tower(pixels).image, dim=1)
    text = model.backbone.encode_text(list(CAPTIONS))
    logits = model.backbone.logit_scale * image @ text.T
    own = torch.arange(3)
    expected = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(losses_of(model)["loss_contrastive"], expected)


def test_the_logit_scale_counts_no_more_than_a_hundred(model):
    with torch.no_grad():
        model.clip.logit_scale.fill_(float(np.log(100)))
    highest = losses_of(model.eval())["loss_contrastive"]
    with torch.no_grad():
        model.clip.logit_scale.fill_(9.0)
    torch.testing.assert_close(losses_of(model)["loss_contrastive"], highest)


def test_a_loss_of_weight_zero_is_left_out_and_others_are_scaled(spec):
    plain = losses_of(built(spec))
    assert "loss_text_reconstruction" not in plain
    bare = built(spec, weights={"superpixel": 0, "reconstruction": 0})
    assert set(losses_of(bare, superpixels=None)) == {"loss_contrastive"} and not hasattr(bare, "patch_decoder")
    twice = losses_of(built(spec, weights={"contrastive": 2.0}))
    torch.testing.assert_close(twice["loss_contrastive"], 2 * plain["loss_contrastive"])


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"patch_mask": 0.5}, "loss_reconstruction"),
        ({"word_mask": 0.6}, "loss_text_reconstruction"),
        ({"max_words": 5}, "loss_contrastive"),
        ({"tower": {"first_blocks": 1}}, "loss_contrastive"),
        ({"tower": {"first_blocks": 2, "groups": 3}}, "loss_superpixel"),
        ({"tower": {"first_blocks": 2, "cross_layers": 1}}, "loss_superpixel"),
        ({"tower": {"first_blocks": 2, "heads": 2}}, "loss_contrastive"),
        ({"tower": {"first_blocks": 2, "tau": 50.0}}, None),
        ({"decoder": {**DECODER, "width": 8}}, "loss_reconstruction"),
        ({"decoder": {**DECODER, "depth": 2}}, "loss_reconstruction"),
        ({"decoder": {**DECODER, "heads": 4}}, "loss_reconstruction"),
    ],
    ids=str,
)
def test_every_option_of_training_changes_a_loss(spec, options, changed):
    weights = {"weights": {"text_reconstruction": 1.0}}
    before, after = built(spec, **weights), built(spec, **weights, **options)
    if changed is not None:
        assert not torch.isclose(losses_of(after)[changed], losses_of(before)[changed])
        return
    learned = (
        torch.autograd.grad(losses_of(model)["loss_superpixel"], model.tower.group.semantic_center)[0]
        for model in (before, after)
    )
    assert not torch.allclose(*learned)


def test_the_first_convolution_and_positions_train_only_if_asked(spec):
    for train_patches in (False, True):
        visual = built(spec, train_patches=train_patches).clip.visual
        assert visual.conv1.weight.requires_grad == visual.positional_embedding.requires_grad == train_patches
        assert visual.class_embedding.requires_grad


def test_one_of_several_captions_is_drawn(model):
    model.eval()
    pixels, samples = batch()
    for sample in samples:
        said = sample.metainfo["caption"]
        del sample.caption
        sample.set_metainfo({"captions": [said, f"{said} at night", "something else"]})
    drawn = {float(model(pixels, samples, mode="loss")["loss_contrastive"].detach()) for _ in range(8)}
    assert len(drawn) > 1


def test_superpixels_are_read_in_the_middle_of_each_patch_and_beyond_them_is_nothing(model, monkeypatch):
    seen = {}
    monkeypatch.setattr(model.superpixels, "forward", lambda hard, labels: seen.update(labels=labels) or hard.sum() * 0)
    labels = np.arange(SIDE * 24).reshape(SIDE, 24)
    losses_of(model, superpixels=labels)
    assert seen["labels"].shape == (3, 16)
    assert seen["labels"][0].view(4, 4)[1].tolist() == [labels[12, 4], labels[12, 12], labels[12, 20], -1]


def test_what_a_sample_lacks_is_named(model):
    pixels, samples = batch(superpixels=None, img_path="cat.jpg")
    with pytest.raises(DataError, match=r"cat.jpg: it has no superpixels; put vladapt.Superpixels"):
        model(pixels, samples, mode="loss")
    pixels, samples = batch(img_path="cat.jpg")
    del samples[0].caption
    with pytest.raises(DataError, match=r"cat.jpg: it has no caption"):
        model(pixels, samples, mode="loss")


def test_it_learns(model):
    optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=4e-3)
    history = []
    for _ in range(15):
        losses = losses_of(model)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    first, last = history[0], history[-1]
    assert last["loss_contrastive"] < 0.2 * first["loss_contrastive"]
    assert last["loss_reconstruction"] < 0.95 * first["loss_reconstruction"]
    assert last["loss_text_reconstruction"] < 0.95 * first["loss_text_reconstruction"]


def test_it_works_under_autocast(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(model.tower.group.semantic_center.grad).all()


# Captions -----------------------------------------------------------------------------------------------------------


def test_a_long_caption_is_cut_and_keeps_its_end(model):
    backbone = model.backbone
    whole = backbone.tokenize(list(CAPTIONS))
    cut = caption_tokens(backbone, CAPTIONS, 6)
    assert cut.shape == (3, 6)
    ends = whole.max(dim=1).values
    assert cut[0, -1] == cut[2, -1] == ends[0] and torch.equal(cut[:, :5][[0, 2]], whole[[0, 2], :5])
    assert torch.equal(cut[1], whole[1, :6])
    roomy = caption_tokens(backbone, CAPTIONS, 20)
    assert torch.allclose(backbone.encode_text(roomy), backbone.encode_text(whole), atol=1e-5)


def test_words_that_stay_are_read_in_their_order_with_their_positions(model):
    backbone = model.backbone
    tokens = caption_tokens(backbone, CAPTIONS, 20)
    torch.manual_seed(0)
    features, kept, asked = part_of_captions(backbone, tokens, 0.5)
    assert (kept.places.diff(dim=1) > 0).all() and asked.any()
    assert not (asked & ~backbone.word_mask(tokens)).any()
    visible = ~kept.hidden & backbone.token_mask(tokens)
    assert (visible | ~(backbone.token_mask(tokens) & ~backbone.word_mask(tokens))).all()  # start and end stay
    torch.manual_seed(0)
    everything, all_kept, none = part_of_captions(backbone, tokens, 0.0)
    assert not none.any() and all_kept.places.shape == tokens.shape
    end = backbone.token_mask(tokens).sum(dim=1) - 1
    whole = torch.nn.functional.normalize(everything[torch.arange(3), end], dim=1)
    assert torch.allclose(whole, backbone.encode_text(tokens), atol=1e-5)
    assert features.shape == (3, int(tokens.shape[1] * 0.5), 16)


def test_class_texts_are_those_of_the_vocabulary_and_follow_the_tower(model):
    vocabulary = Vocabulary.of({"car": {"synonyms": ["bus"]}, "background": [], "dog": ["a wet nose"]}, "imagenet-7")
    ours = encode_classes(vocabulary, model.backbone)
    torch.testing.assert_close(ours, embed_classes(vocabulary, model.backbone), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encode_classes(vocabulary.without(1), model.backbone), ours[[0, 2]])


# Prediction ---------------------------------------------------------------------------------------------------------


def predicted(model, **changes):
    with torch.no_grad():
        return model.eval()(*batch(**changes), mode="predict")


def test_it_gives_every_pixel_a_class_at_the_original_size(model):
    found = predicted(model, size=(40, 52), ori_shape=(60, 78))[0]
    assert found.pred_sem_seg.data.shape == (1, 60, 78) and found.seg_logits.data.shape == (4, 60, 78)
    assert set(found.pred_sem_seg.data.unique().tolist()) <= {0, 1, 2, 3}
    with torch.no_grad():
        assert model(batch()[0], mode="tensor").shape == (3, 4, SIDE, SIDE)
        assert model.extract_feat(batch()[0]).shape == (3, 8, 16)


def test_pixels_of_one_group_have_one_class(spec):
    model = built(spec, classes="car, dog, tree").eval()
    with torch.no_grad():
        scores = model.encode_decode(batch()[0])[0]
        seen = model.tower(batch()[0])
    soft = seen.gathered.soft.unflatten(2, seen.grid)
    owner = torch.nn.functional.interpolate(soft, size=(SIDE, SIDE), mode="bilinear").argmax(dim=1)[0]
    for group in owner.unique():
        assert len(scores[:, owner == group].T.unique(dim=0)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"background_threshold": 0.0},
        {"background": "car"},
        {"likely": 1},
        {"crop": 16},
        {"templates": "name"},
    ],
    ids=str,
)
def test_every_option_of_prediction_changes_the_scores(spec, options):
    plain = {"templates": "imagenet-7"}
    before, after = (built(spec, **given) for given in (plain, {**plain, **options}))
    assert not torch.allclose(*(predicted(model)[0].seg_logits.data for model in (before, after)))


def test_stride_changes_the_scores(spec):
    near, far = (built(spec, crop=16, stride=stride) for stride in (8, 16))
    assert not torch.allclose(*(predicted(model)[0].seg_logits.data for model in (near, far)))


def test_one_class_has_every_pixel(spec):
    found = predicted(built(spec, classes="car"))[0]
    assert (found.pred_sem_seg.data == 0).all() and found.seg_logits.data.shape == (1, SIDE, SIDE)


def test_new_names_are_taken_in_any_number(model, spec):
    set_classes(model, "bus, road, sky, river, house, cat")
    assert model.num_classes == 6
    other = built(spec, classes="bus, road, sky, river, house, cat")
    other.load_state_dict(model.state_dict(), strict=False)
    assert torch.allclose(predicted(model)[0].seg_logits.data, predicted(other)[0].seg_logits.data, atol=1e-5)
    with pytest.raises(ConfigError, match="there is only the background"):
        set_classes(model, "background")


def test_class_texts_follow_the_text_tower_as_it_trains(model):
    before = predicted(model)[0].seg_logits.data.clone()
    with torch.no_grad():
        model.train().clip.text_projection.add_(torch.randn(32, 16, generator=torch.Generator().manual_seed(3)))
    assert not torch.allclose(predicted(model)[0].seg_logits.data, before)


def test_a_checkpoint_brings_it_back_and_a_copy_is_its_own(model, spec):
    torch.manual_seed(7)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    other = built(spec, weights={"text_reconstruction": 1.0})
    other.load_state_dict(model.state_dict())
    kept = predicted(model)[0].seg_logits.data.clone()
    assert torch.allclose(predicted(other)[0].seg_logits.data, kept, atol=1e-6)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.clip.visual.proj.neg_()
    assert torch.equal(predicted(model)[0].seg_logits.data, kept)
    assert not torch.allclose(predicted(copied)[0].seg_logits.data, kept)


def test_bad_options_are_named(spec):
    for options, line in (
        ({"weights": {"kl": 1}}, 'option weights="kl" is not usable; there are contrastive, superpixel'),
        ({"weights": {"contrastive": -1}}, r"option weights\.contrastive=-1"),
        ({"weights": dict.fromkeys(("contrastive", "superpixel", "reconstruction"), 0)}, "option weights: all are 0"),
        ({"patch_mask": 1.0}, r"option patch_mask=1\.0"),
        ({"word_mask": 0}, "option word_mask=0"),
        ({"max_words": 2}, "option max_words=2"),
        ({"likely": 0}, "option likely=0"),
        ({"background_threshold": 2}, "option background_threshold=2"),
        ({"tower": {"first_blocks": 4}}, "option first_blocks=4 is not usable; the image tower has 3 blocks"),
    ):
        with pytest.raises(ConfigError, match=line):
            built(spec, **options)


def test_a_tower_without_blocks_says_so():
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
    with pytest.raises(CapabilityError):
        MODELS.build({"type": "vladapt.SegCLIP", "backbone": "embedded", "classes": "cat"})


def test_it_trains_on_what_a_pipeline_of_mmseg_packs(spec):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.optim import OptimWrapper

    from vladapt.registry import TRANSFORMS

    steps = (
        {"type": "vladapt.Superpixels", "min_size": 8},
        {"type": "mmseg.Resize", "scale": (SIDE, SIDE), "keep_ratio": False},
        {"type": "mmseg.PackSegInputs", "meta_keys": ("img_shape", "ori_shape", "caption", "superpixels")},
    )
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    pictures = np.random.default_rng(0).integers(0, 255, (3, 48, 40, 3), dtype=np.uint8)
    samples = [
        pipeline({"img": picture, "img_shape": (48, 40), "ori_shape": (48, 40), "caption": caption})
        for picture, caption in zip(pictures, CAPTIONS)
    ]
    model = built(spec)
    wrapper = OptimWrapper(torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-3))
    logged = [model.train_step(pseudo_collate(copy.deepcopy(samples)), wrapper) for _ in range(2)]
    assert set(logged[0]) == {"loss", "loss_contrastive", "loss_superpixel", "loss_reconstruction"}
    assert not torch.isclose(logged[0]["loss"], logged[1]["loss"])
