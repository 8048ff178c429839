import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.domains.open_vocab.modules.segmentors.cliper.features import (
    balanced_attention,
    purified,
    spread_by_affinity,
    spread_by_maps,
)
from vladapt.domains.open_vocab.modules.segmentors.windows import place_windows

CLASSES = "cat, background, sea"


@pytest.fixture
def image():
    generator = torch.Generator().manual_seed(0)
    return F.interpolate(torch.randn(1, 3, 5, 7, generator=generator), size=(40, 56), mode="bilinear")[0]


def scores(model, image, path=None):
    from mmseg.structures import SegDataSample

    sample = SegDataSample()
    sample.set_metainfo({"ori_shape": (40, 56), "img_path": path})
    return model.predict(image[None], [sample])[0].seg_logits.data


@pytest.mark.parametrize(
    "option",
    [
        {"attention": "q-q"},
        {"attention": "k-k"},
        {"attention": "v-v"},
        {"attention": "vanilla"},
        {"attention": "identity"},
        {"fuse": False},
        {"select_layer": 0},
        {"attention_thd": 0.99},
        {"class_thd": 0.99},
        {"bg_thd": 0.9},
        {"bg_thd": 0.0},
        {"normalize": True},
        {"released": True},
        {"logit_scale": 5.0},
        {"crop": 0},
        {"crop": 24},
        {"stride": 8},
        {"background_words": "sky, wall, tree"},
    ],
)
def test_every_option_changes_a_result(build, image, option):
    plain = {"classes": CLASSES, "class_thd": 0.01, "bg_thd": 0.01}
    other = build("CLIPer", **{**plain, **option})
    assert (scores(build("CLIPer", **plain), image) - scores(other, image)).abs().max() > 0


@pytest.mark.parametrize("option", [{"beta": 0.5}, {"gamma": 9.0}, {"proxy_layer": "tokens"}, {"refine": "none"}])
def test_the_options_of_the_proxy_change_a_result(build, image, deep_clip, option):
    refined = scores(build("CLIPer", refine="proxy", proxy=deep_clip), image)
    other = build("CLIPer", **{"refine": "proxy", "proxy": None if "refine" in option else deep_clip, **option})
    assert (refined - scores(other, image)).abs().max() > 1e-4


def test_the_whole_is_the_papers_sum(build, image):
    """Coarse maps step by step, as a reader of the paper would write them; one word a class, no windows."""
    model = build("CLIPer", crop=0, attention_thd=0.3)
    features, weights = model._patches(image[None])
    words = model.queries()
    words = F.normalize(torch.cat([words, words.mean(dim=0, keepdim=True)]), dim=-1)
    layers = (50 * F.normalize(features[:, 0], dim=-1) @ words.T).softmax(dim=-1)[..., :3]  # (L, P, 3)
    last = layers[-1].clone()
    last[last < 0.3 * last.amax(dim=0, keepdim=True)] = 0
    expected = last.T @ weights[0] + layers.mean(dim=0).T
    torch.testing.assert_close(model._coarse(image).flatten(1), expected, atol=1e-5, rtol=1e-4)


def test_windows_join_the_whole_half_and_half(build, image):
    """One window as large as the image: its logits, spread along its own attention, then both softmaxes averaged."""
    square = image[:, :32, :32]
    model = build("CLIPer", crop=32)
    texts, _ = model._texts(square)
    features, weights = model._patches(square[None])
    logits = model._compare(features[:, 0], texts).transpose(1, 2)  # (L, K, P)
    rows = weights[0] / (1 + 1e-5)
    spread = logits @ (rows / rows.sum(dim=1, keepdim=True))
    torch.testing.assert_close(model._by_windows(square, texts, (4, 4)).flatten(2), spread, atol=1e-4, rtol=1e-4)


def test_windows_overlap_on_whole_patches(build, image):
    model = build("CLIPer", crop=32, stride=16)
    assert len(place_windows(0, (40, 56), 32, 16)) == 6
    assert torch.isfinite(scores(model, image)).all()
    with pytest.raises(ConfigError, match="give multiples of 8"):
        scores(build("CLIPer", crop=30), image)


def test_pixels_below_the_threshold_are_background(build, image):
    kept = build("CLIPer", classes=CLASSES, class_thd=0.0, bg_thd=0.01)
    found = scores(kept, image)
    threshold = float(found[[0, 2]].amax(dim=0).median()) + 1e-4  # no pixel is just there
    strict = scores(build("CLIPer", classes=CLASSES, class_thd=0.0, bg_thd=threshold), image)
    torch.testing.assert_close(strict[[0, 2]], found[[0, 2]])
    below = found[[0, 2]].amax(dim=0) < threshold
    assert torch.equal(strict.argmax(dim=0) == 1, below)


def test_classes_that_are_not_there_get_no_pixel(build, image):
    found = scores(build("CLIPer", classes=CLASSES, class_thd=0.0, bg_thd=0.0), image)
    peaks = found[[0, 2]].amax(dim=(1, 2))
    between = float(peaks.mean())
    left = scores(build("CLIPer", classes=CLASSES, class_thd=between, bg_thd=0.0), image)[[0, 2]]
    assert left[peaks.argmin()].abs().max() == 0 and left[peaks.argmax()].max() > 0


def test_thresholds_need_a_background(build):
    for option in ({"bg_thd": 0.4}, {"class_thd": 0.4}):
        with pytest.raises(ConfigError, match="no class is named 'background'"):
            build("CLIPer", **option)


def test_balanced_weights_are_purified(build):
    raw = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    once = balanced_attention(raw)
    torch.testing.assert_close(once.sum(dim=-1), torch.ones(2, 3, 6))
    pure = purified(once)
    assert pure.min() == 0
    torch.testing.assert_close(pure.sum(dim=-1), torch.ones(2, 3, 6))


def literal_spread(coarse, maps, threshold):
    """The product of all matrices made first, as the paper has it."""
    chain = torch.eye(maps.shape[-1])
    for one in maps:
        one = one / (one.amax(dim=-2, keepdim=True) + 1e-5)
        one = torch.where(one < threshold, torch.zeros(()), one)
        chain = chain @ (one / (one.sum(dim=-1, keepdim=True) + 1e-5))
    resized = F.interpolate(coarse[None], size=(4, 4), mode="bilinear")[0]
    return (chain @ resized.flatten(1).T).T.unflatten(1, (4, 4))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_diffusion_maps_are_multiplied_in_their_order(threshold):
    generator = torch.Generator().manual_seed(0)
    coarse, maps = torch.rand(3, 5, 7, generator=generator), torch.rand(4, 16, 16, generator=generator)
    ours = spread_by_maps(coarse, maps, threshold)
    torch.testing.assert_close(ours, literal_spread(coarse, maps, threshold), atol=1e-5, rtol=1e-4)


def test_each_place_is_the_mean_of_those_it_is_alike():
    coarse, affinity = torch.rand(2, 3, 3), torch.zeros(9, 9)
    affinity[:, 4] = 1.0
    torch.testing.assert_close(spread_by_affinity(coarse, affinity, (3, 3)), coarse[:, 1:2, 1:2].expand(2, 3, 3))


def test_ready_maps_compensate(build, image, tmp_path):
    maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    save_file({"maps": maps}, tmp_path / "one.safetensors")
    model = build("CLIPer", refine="diffusion", maps=str(tmp_path))
    refined = scores(model, image, "somewhere/one.jpg")
    assert (refined - scores(build("CLIPer"), image)).abs().max() > 1e-4
    with pytest.raises(DataError, match=r"two\.safetensors: cannot be read"):
        scores(model, image, "somewhere/two.jpg")
    with pytest.raises(DataError, match="this one has none"):
        scores(model, image)
    for wrong in (torch.rand(16, 16), torch.rand(2, 16, 9), torch.rand(2, 15, 15)):
        save_file({"maps": wrong.contiguous()}, tmp_path / "one.safetensors")
        with pytest.raises(DataError, match="has no tensor 'maps'"):
            scores(model, image, "one.png")


def test_without_maps_it_says_what_makes_them(build):
    with pytest.raises(CapabilityError, match=r"Stable Diffusion 2\.1 .*diffusers.*refine='proxy'"):
        build("CLIPer", refine="diffusion")


@pytest.mark.parametrize(
    "option", [{"attention": "k-q"}, {"refine": "sam"}, {"refine": "proxy"}, {"proxy": "embedded"}, {"bg_thd": -0.5}]
)
def test_bad_options_say_so(build, option):
    with pytest.raises(ConfigError, match="is not usable"):
        build("CLIPer", **option)


def test_one_block_has_none_before_it(build, small_clip_spec):
    with pytest.raises(CapabilityError, match="one transformer block"):
        model = build("CLIPer", backbone=small_clip_spec)
        scores(model, torch.zeros(3, 40, 56))
