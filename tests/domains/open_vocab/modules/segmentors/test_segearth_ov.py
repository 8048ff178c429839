"""SegEarth-OV beside its public code: attention, upsampler, the global bias, classes; each of its terms counts."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from parity_checks import segmentors
from safetensors.torch import save_file

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.open_vocab.modules.segmentors.attention_heads import until_last
from vladapt.domains.open_vocab.modules.segmentors.queries import Queries
from vladapt.domains.open_vocab.modules.segmentors.segearth_ov import segmentor
from vladapt.domains.open_vocab.modules.segmentors.segearth_ov.segmentor import mixed_tokens, without_global
from vladapt.domains.open_vocab.modules.segmentors.segearth_ov.upsampler import JBUOne, load_upsampler
from vladapt.domains.open_vocab.modules.segmentors.training_free import cosine_maps
from vladapt.domains.open_vocab.tasks._by_names import _with_resources


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def reference(references):
    (ref,) = references(segmentors.segearth_ov)
    return ref


@pytest.fixture
def worst(reference):
    """The largest share of its tolerance that any number of ours takes up; above 1 the comparison fails."""
    return lambda: max(check.share for check in segmentors.segearth_ov.run(reference, None))


@pytest.fixture
def upsampler():
    """(file of weights, image (1, 3, 32, 40), features (1, 24, 4, 5))."""
    torch.manual_seed(0)
    return JBUOne(24).eval(), torch.randn(1, 3, 32, 40), torch.randn(1, 24, 4, 5)


def test_classes_of_places_are_those_of_the_public_code(reference):
    words = reference["queries"]
    side = reference["image"].shape[-1] // reference.setting("patch")
    places = reference["tokens"].transpose(1, 2).unflatten(2, (-1, side))
    dense = segmentors.upsampler_of(reference)(places, reference["image"])
    logits = without_global(cosine_maps(dense, words), reference["cls_token"], words, -0.3)[0]
    probabilities = torch.softmax(reference.setting("logit_scale") * logits, dim=0)
    counts = reference["query_class"].bincount().tolist()
    scores = Queries.best_of_each(SimpleNamespace(counts=counts), probabilities)
    model = SimpleNamespace(
        prob_thd=reference.setting("prob_thd"), queries=SimpleNamespace(need_background=lambda option: 0)
    )
    ours = segmentor.SegEarthOV.choose(model, scores)
    assert (ours == reference["prediction"]).double().mean() >= reference.told["prediction"]["agree"]


def test_each_term_of_the_attention_counts(monkeypatch, worst):
    assert worst() <= 1
    whole = segmentor.self_similarity
    for left_out in range(3):
        weights = iter([float(part != left_out) for part in range(3)])
        monkeypatch.setattr(segmentor, "self_similarity", lambda x, weights=weights: next(weights) * whole(x))
        assert worst() > 1


@pytest.mark.parametrize(
    ("part", "value"),
    [("range_temp", -9.0), ("sigma_spatial", 1e3), ("fixup_proj.3.bias", 0.0), ("range_proj.3.weight", 0.0)],
)
def test_each_term_of_the_upsampler_counts(upsampler, part, value):
    whole, image, features = upsampler
    changed = copy.deepcopy(whole)
    changed.up.get_parameter(part).fill_(value)
    assert (whole(features, image) - changed(features, image)).abs().max() > 1e-3


def test_the_upsampler_looks_at_the_image_and_ends_with_its_own_correction(upsampler):
    whole, image, features = upsampler
    assert whole(features, image).shape == (1, 24, 64, 80)
    assert (whole(features, image) - whole(features, image.flip(3))).abs().max() > 1e-3
    plain = copy.deepcopy(whole)
    plain.fixup_proj[1].weight.zero_()
    plain.fixup_proj[1].bias.zero_()
    expected = plain(features, image)
    torch.testing.assert_close(whole(features, image), expected + 0.1 * whole.fixup_proj(expected))


def test_a_batch_is_its_images_one_by_one_and_tiny_maps_are_upsampled(upsampler):
    whole, image, features = upsampler
    images, several = torch.cat([image, image.flip(2)]), torch.cat([features, 2 * features])
    alone = torch.cat([whole(*one) for one in zip(several.split(1), images.split(1))])
    torch.testing.assert_close(whole(several, images), alone, atol=1e-5, rtol=1e-5)
    assert whole(features[..., :1, :2], image).shape == (1, 24, 16, 32)  # too small to be reflected


def test_the_last_block_has_no_residual_and_no_mlp(build):
    model = build("SegEarthOV")
    tower = model.tower(torch.device("cpu"))
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    last, x = tower.blocks("image")[-1], until_last(tower, pixels)
    ours = mixed_tokens(tower, pixels)
    torch.testing.assert_close(ours, segmentor.summed_attention(last, last.ln_1(x)))
    assert (ours - x).abs().max() > 0.1


def test_what_all_places_share_is_taken_away():
    generator = torch.Generator().manual_seed(0)
    words = F.normalize(torch.randn(4, 6, generator=generator), dim=1)
    whole, logits = torch.randn(2, 6, generator=generator), torch.randn(2, 4, 3, 3, generator=generator)
    cosines = F.cosine_similarity(whole[:, None], words[None], dim=-1)
    expected = logits - 0.3 * cosines[..., None, None]
    torch.testing.assert_close(without_global(logits, whole, words, -0.3), expected)


def test_weights_are_read_from_a_file_in_their_published_names(build, upsampler, tmp_path):
    whole, image, features = upsampler
    torch.save({"state_dict": {f"upsampler.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "released.ckpt")
    save_file(whole.state_dict(), tmp_path / "ours.safetensors")
    for file in ("released.ckpt", "ours.safetensors"):
        loaded = load_upsampler(str(tmp_path / file), 24, "cpu")
        torch.testing.assert_close(loaded(features, image), whole(features, image))
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    bicubic, jbu = build("SegEarthOV"), build("SegEarthOV", upsampler=str(tmp_path / "ours.safetensors"))
    assert bicubic.dense_features(pixels).shape[-2:] == (32, 32) and jbu.dense_features(pixels).shape[-2:] == (64, 64)
    assert (bicubic.encode_decode(pixels) - jbu.encode_decode(pixels)).abs().max() > 1e-4


def test_wrong_weights_and_two_sizes_are_refused(build, tmp_path):
    save_file(JBUOne(16).state_dict(), tmp_path / "narrow.safetensors")
    with pytest.raises(DataError, match=r"narrow\.safetensors"):
        build("SegEarthOV", upsampler=str(tmp_path / "narrow.safetensors"))
    with pytest.raises(DataError, match="no such file"):
        build("SegEarthOV", upsampler="elsewhere.ckpt")
    with pytest.raises(ConfigError, match="short_side"):
        build("SegEarthOV", long_side=64, short_side=32)


def test_the_longer_side_is_brought_to_its_length(build):
    model = build("SegEarthOV", long_side=64)
    assert model.resized(torch.zeros(3, 40, 80)).shape == (3, 32, 64)
    assert build("SegEarthOV", short_side=20).resized(torch.zeros(3, 40, 80)).shape == (3, 20, 40)


def test_the_upsampler_is_a_resource_of_configs_that_have_a_place_for_it():
    config = {"model": {"type": "vladapt.SegEarthOV", "upsampler": "bicubic"}, "default_scope": "mmseg"}
    taken = _with_resources(config, {"upsampler": "weights.ckpt"})
    assert taken["model"]["upsampler"] == "weights.ckpt" and config["model"]["upsampler"] == "bicubic"
    assert _with_resources(config, {}) is config
    for wrong, named in ((config, "captions"), ({"model": {"type": "vladapt.SCLIP"}}, "upsampler")):
        with pytest.raises(ConfigError, match=f"--resource {named}=file: the config's model takes none"):
            _with_resources(wrong, {named: "file"})
