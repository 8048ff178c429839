"""DenseCLIP for segmentation: what every option does, and classes at test time."""

import copy

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

SIDE = 32
DECODER = {"width": 16, "heads": 2, "layers": 1, "dropout": 0.0}
META = {"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE), "pad_shape": (SIDE, SIDE)}


def config(spec, **options):
    """A small segmentor; `matching` is merged into its own."""
    matching = {"decoder": DECODER, **options.pop("matching", {})}
    head = {
        "type": "mmseg.FPNHead",
        "in_channels": [8] * 4,
        "in_index": [0, 1, 2, 3],
        "feature_strides": [4, 8, 16, 32],
        "channels": 8,
        "dropout_ratio": 0.0,
    }
    return {
        "type": "vladapt.DenseCLIPSegmentor",
        "backbone": spec,
        "classes": "cat, dog, car",
        "neck": {"type": "mmdet.FPN", "out_channels": 8, "num_outs": 4},
        "decode_head": head,
        "matching": matching,
        **options,
    }


def built(spec, **options):
    torch.manual_seed(0)
    return MODELS.build(config(spec, **options))


def batch(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=generator)
    masks = torch.randint(classes, (2, 1, SIDE, SIDE), generator=generator)
    return pixels, [SegDataSample(gt_sem_seg=PixelData(data=mask), metainfo=META) for mask in masks]


def scores_of(model, seed=0):
    with torch.no_grad():
        return model.eval()._features(batch(seed)[0])[2]


@pytest.fixture
def model(small_clip_spec):
    return built(small_clip_spec)


def test_it_trains_predicts_and_gives_tensors(model):
    pixels, samples = batch()
    losses = model(pixels, samples, mode="loss")
    assert set(losses) == {"decode.loss_ce", "decode.acc_seg", "identity.loss_ce", "identity.acc_seg"}
    model.parse_losses(losses)[0].backward()
    assert [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
    with torch.no_grad():
        assert model.eval()(pixels, mode="tensor").shape == (2, 3, 8, 8)
        found = model(pixels, samples, mode="predict")
    assert found[0].pred_sem_seg.data.shape == (1, SIDE, SIDE) and found[0].seg_logits.data.shape == (3, SIDE, SIDE)


def test_the_text_tower_is_no_part_of_it(model):
    assert not [key for key in model.state_dict() if "token_embedding" in key or "text_projection" in key]


def test_its_pixels_are_normalised_as_the_tower_wants_them(model, small_clip):
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx([255 * m for m in small_clip.image_mean])


def test_the_identity_loss_is_the_cross_entropy_of_scores_over_tau(model, small_clip_spec):
    pixels, samples = batch()
    model.eval()
    scores = torch.nn.functional.interpolate(model._features(pixels)[2] / 0.07, size=(SIDE, SIDE), mode="bilinear")
    truth = torch.cat([sample.gt_sem_seg.data for sample in samples])
    expected = 0.4 * torch.nn.functional.cross_entropy(scores, truth)
    torch.testing.assert_close(model.loss(pixels, samples)["identity.loss_ce"], expected)
    other = built(small_clip_spec, tau=0.5).eval().loss(pixels, samples)["identity.loss_ce"]
    assert not torch.isclose(other, expected)
    assert "identity.loss_ce" not in built(small_clip_spec, identity_head=None).loss(pixels, samples)


def test_scores_are_channels_of_the_chosen_map(small_clip_spec):
    for index in range(4):
        model = built(small_clip_spec, score_concat_index=index)
        widths = [conv.in_channels for conv in (lateral.conv for lateral in model.neck.lateral_convs)]
        assert widths == [32 + 3 * (level == index) for level in range(4)]
    bare = built(small_clip_spec, concat_scores=False)
    assert [lateral.conv.in_channels for lateral in bare.neck.lateral_convs] == [32] * 4


def test_scores_reach_what_the_head_sees(model):
    pixels, _ = batch()
    with torch.no_grad():
        before = model.eval()(pixels)
        model.matching.contexts.data.add_(torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(3)))
        after = model.eval()(pixels)
    assert not torch.allclose(before, after)


def test_an_auxiliary_head_reads_the_neck_or_the_bare_maps(small_clip_spec):
    head = {"type": "mmseg.FCNHead", "in_index": 2, "channels": 8, "dropout_ratio": 0.0}
    pixels, samples = batch()
    with_neck = built(small_clip_spec, auxiliary_head={**head, "in_channels": 8})
    assert "aux.loss_ce" in with_neck.loss(pixels, samples)
    bare = built(
        small_clip_spec,
        neck=None,
        decode_head={"type": "mmseg.FCNHead", "in_channels": 35, "in_index": 1, "channels": 8},
        auxiliary_head={**head, "in_channels": 32},
    )
    assert "aux.loss_ce" in bare.loss(pixels, samples)


def test_it_sees_by_windows(small_clip_spec):
    slid = built(small_clip_spec, test_cfg={"mode": "slide", "crop_size": (16, 16), "stride": (8, 8)}).eval()
    whole = built(small_clip_spec).eval()
    pixels, samples = batch()
    with torch.no_grad():
        ours, plain = (model.predict(pixels, copy.deepcopy(samples))[0].seg_logits.data for model in (slid, whole))
    assert ours.shape == plain.shape and not torch.allclose(ours, plain)


def test_it_learns(small_clip_spec):
    model, (pixels, samples) = built(small_clip_spec), batch()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model.parse_losses(model(pixels, samples, mode="loss"))[0]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_a_checkpoint_brings_it_back_and_a_copy_is_its_own(model, small_clip_spec):
    torch.manual_seed(5)
    other = MODELS.build(config(small_clip_spec))
    assert not torch.allclose(scores_of(other), scores_of(model))
    other.load_state_dict(model.state_dict())
    assert torch.allclose(scores_of(other), scores_of(model))
    copied = copy.deepcopy(model)
    kept = scores_of(model)
    with torch.no_grad():
        copied.matching.contexts.add_(1)
        next(copied.backbone.part.parameters()).add_(1)
    assert torch.equal(scores_of(model), kept) and not torch.allclose(scores_of(copied), kept)


def test_it_works_under_autocast(model):
    pixels, samples = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.parse_losses(model(pixels, samples, mode="loss"))[0]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(model.matching.contexts.grad).all()


def test_mismatched_configs_say_what_fits(small_clip_spec):
    cases = (
        (
            {"neck": {"type": "mmdet.FPN", "in_channels": [32, 32, 32, 32], "out_channels": 8, "num_outs": 4}},
            r"neck.in_channels=\[32, 32, 32, 32\] does not fit.*\[32, 35, 32, 32\]",
        ),
        (
            {"decode_head": {"type": "mmseg.FPNHead", "num_classes": 150}},
            "decode_head.num_classes=150, but 3 classes are named",
        ),
        ({"score_concat_index": 4}, "option score_concat_index=4 is not usable; the backbone has maps 0 to 3"),
        ({"tau": 0}, "option tau=0 is not usable"),
    )
    for options, line in cases:
        with pytest.raises(ConfigError, match=line):
            built(small_clip_spec, **options)


# Classes at test time -----------------------------------------------------------------------------------------------


def test_as_many_other_names_are_taken_and_read_anew(model, small_clip_spec):
    before = scores_of(model)
    set_classes(model, "bus, tree, sky")
    assert not torch.allclose(scores_of(model), before)
    assert torch.allclose(scores_of(model), scores_of(built(small_clip_spec, classes="bus, tree, sky")))


def test_another_number_of_names_is_refused_before_anything_changes(model):
    before = scores_of(model)
    with pytest.raises(CapabilityError, match="built for 3 classes and cannot take 2: its score maps are channels"):
        set_classes(model, "bus, tree")
    assert torch.equal(scores_of(model), before)


def test_a_head_of_fixed_classes_refuses_them_too(small_clip_spec):
    with pytest.raises(CapabilityError, match="cannot take 2: its head's classes are fixed"):
        set_classes(built(small_clip_spec, concat_scores=False), "bus, tree")


def test_scores_beside_nothing_and_a_head_that_reads_text_take_any_names(small_clip_spec):
    head = config(small_clip_spec)["decode_head"]
    classifier = {"backbone": small_clip_spec, "classes": "cat, dog, car"}
    head = {**head, "type": "vladapt.TextFPNHead", "classifier": classifier}
    model = built(small_clip_spec, concat_scores=False, decode_head=head).eval()
    set_classes(model, "bus, tree, sky, road, river")
    pixels, samples = batch()
    with torch.no_grad():
        found = model(pixels, samples, mode="predict")
    assert found[0].seg_logits.data.shape == (5, SIDE, SIDE) and model.out_channels == 5
