"""YOLO-World's attentions, neck, contrast and loss, each against what its equation says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.detectors.yolo_world.attention import (
    ImagePoolingAttention,
    MaxSigmoidAttention,
)
from vladapt.domains.open_vocab.modules.detectors.yolo_world.head import TextContrast
from vladapt.domains.open_vocab.modules.detectors.yolo_world.neck import RepVLPAN
from vladapt.domains.open_vocab.modules.losses.region_text import RegionTextContrastiveLoss

BN = {"type": "BN"}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """In evaluation, with statistics and parameters that none of its terms can hide behind."""
    for value in (*module.parameters(), *module.buffers()):
        if value.dtype.is_floating_point:
            value.data = torch.rand_like(value) + 0.3 if value.dim() == 1 else torch.randn_like(value) / 2
    return module.eval()


@pytest.mark.parametrize(("embed_channels", "num_heads"), [(None, 1), (None, 2), (4, 2)])
def test_each_cell_is_kept_as_far_as_its_best_text_says(embed_channels, num_heads):
    block = randomised(MaxSigmoidAttention(6, 5, embed_channels, num_heads))
    x, texts = torch.randn(2, 6, 3, 4), torch.randn(2, 7, 5)
    with torch.no_grad():
        found, projected = block(x, texts), block.project(x)
        embedded = x if block.embed is None else block.embed(x)
        guides = block.guide(texts)
    width, out = embedded.shape[1] // num_heads, 6 // num_heads
    for image in range(2):
        for row in range(3):
            for head in range(num_heads):
                part = slice(head * width, (head + 1) * width)
                dots = guides[image, :, part] @ embedded[image, part, row, 1] / width**0.5
                weight = torch.sigmoid(dots.max() + block.bias[head])
                kept = slice(head * out, (head + 1) * out)
                torch.testing.assert_close(found[image, kept, row, 1], projected[image, kept, row, 1] * weight)


def test_a_name_twice_changes_no_attention_and_one_that_fits_better_does():
    block = randomised(MaxSigmoidAttention(6, 5, num_heads=2))
    x, texts = torch.randn(1, 6, 3, 4), torch.randn(1, 3, 5)
    with torch.no_grad():
        plain = block(x, texts)
        torch.testing.assert_close(block(x, torch.cat([texts, texts[:, :1]], dim=1)), plain)
        assert (block(x, torch.cat([texts, 20 * torch.randn(1, 4, 5)], dim=1)) - plain).abs().max() > 1e-2


def test_texts_are_told_by_an_attention_to_the_largest_values_of_patches():
    block = randomised(ImagePoolingAttention([3, 5], 8, embed_channels=4, num_heads=2, pool_size=2))
    maps, texts = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)], torch.randn(1, 6, 8)
    with torch.no_grad():
        found = block(texts, maps)
        tokens = []
        for project, x in zip(block.projections, maps):
            patches = project(x).unfold(2, x.shape[2] // 2, x.shape[2] // 2).unfold(3, x.shape[3] // 2, x.shape[3] // 2)
            tokens.append(patches.amax(dim=(-2, -1)).flatten(2).transpose(1, 2))
        tokens = torch.cat(tokens, dim=1)
        assert tokens.shape == (2, 8, 4)
        q, k, v = block.query(texts)[0], block.key(tokens), block.value(tokens)
        for image in range(2):
            heads = []
            for part in (slice(0, 2), slice(2, 4)):
                weights = (q[:, part] @ k[image, :, part].T / 2**0.5).softmax(dim=-1)
                heads.append(weights @ v[image, :, part])
            torch.testing.assert_close(found[image], texts[0] + block.out(torch.cat(heads, dim=-1)))


@pytest.fixture(scope="module")
def necks():
    """image_pooling -> a neck of three levels, the finest map of four left out."""
    made = {}
    for pooling in (False, True):
        torch.manual_seed(0)
        neck = RepVLPAN(
            [4, 8, 12, 16], 6, 5, image_pooling=pooling, start_level=1, num_csp_blocks=1, pooling={"embed_channels": 8}
        )
        made[pooling] = randomised(neck)
    return made


def maps() -> list[torch.Tensor]:
    return [torch.randn(2, width, side, side) for width, side in ((4, 16), (8, 8), (12, 4), (16, 2))]


@pytest.mark.parametrize("pooling", [False, True])
def test_a_neck_gives_maps_of_its_levels_and_texts(necks, pooling):
    pyramid, texts = maps(), torch.randn(1, 3, 5)
    with torch.no_grad():
        out, told = necks[pooling](pyramid, texts)
        assert [tuple(x.shape) for x in out] == [(2, 6, 8, 8), (2, 6, 4, 4), (2, 6, 2, 2)]
        assert told.shape == ((2, 3, 5) if pooling else (1, 3, 5))
        assert torch.equal(told, texts) is not pooling
        others, _ = necks[pooling](pyramid, torch.randn(1, 3, 5))
        assert all((one - other).abs().max() > 1e-4 for one, other in zip(out, others))
        finest = [torch.randn_like(pyramid[0]), *pyramid[1:]]
        assert torch.equal(necks[pooling](finest, texts)[0][0], out[0])  # left out
        for level in (1, 2, 3):
            changed = [x + 1 if place == level else x for place, x in enumerate(pyramid)]
            assert all((a - b).abs().max() > 1e-4 for a, b in zip(necks[pooling](changed, texts)[0], out))


def test_names_guide_the_way_down_and_the_way_up(necks):
    neck, pyramid, texts = necks[False], maps(), torch.randn(1, 3, 5)
    seen = []
    hooks = [
        block.text_attention.register_forward_hook(lambda module, given, out: seen.append(given[1]))
        for block in (*neck.top_down_blocks, *neck.bottom_up_blocks)
    ]
    with torch.no_grad():
        neck(pyramid, texts)
        pooled = necks[True]
        hooks += [
            block.text_attention.register_forward_hook(lambda module, given, out: seen.append(given[1]))
            for block in (*pooled.top_down_blocks, *pooled.bottom_up_blocks)
        ]
        _, told = pooled(pyramid, texts)
    for hook in hooks:
        hook.remove()
    assert [torch.equal(each, texts) for each in seen] == [True] * 4 + [True, True, False, False]
    assert all(torch.equal(each, told) for each in seen[-2:])


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="num_heads=4 is not usable; give a divisor of 6"):
        MaxSigmoidAttention(6, 5, num_heads=4)
    with pytest.raises(ConfigError, match="give a divisor of 256"):
        ImagePoolingAttention([3], 8, num_heads=7)
    with pytest.raises(ConfigError, match=r"embed_channels.*one for each of 2 levels"):
        RepVLPAN([4, 8], 6, 5, embed_channels=[4])
    with pytest.raises(ConfigError, match="norm='bn' is a batch norm"):
        TextContrast(6, "bn", {"type": "GN", "num_groups": 2})


@pytest.mark.parametrize("norm", ["l2", "bn"])
def test_a_contrast_has_a_scale_and_a_shift(norm):
    contrast = randomised(TextContrast(6, norm, BN))
    regions, texts = torch.randn(2, 6, 3, 4), 3 * torch.randn(1, 5, 6)
    with torch.no_grad():
        found = contrast(regions, texts)
        cells = regions.permute(0, 2, 3, 1)
        if norm == "bn":
            mean, spread = contrast.norm.running_mean, (contrast.norm.running_var + contrast.norm.eps).sqrt()
            cells = (cells - mean) / spread * contrast.norm.weight + contrast.norm.bias
            alike = cells @ F.normalize(texts[0], dim=-1).T
        else:
            alike = F.cosine_similarity(cells[..., None, :], texts[0], dim=-1)
        wanted = contrast.log_scale.exp() * alike + contrast.shift
    torch.testing.assert_close(found, wanted.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("norm", "scale"), [("l2", 1 / 0.07), ("bn", 0.36788)])
def test_a_contrast_starts_at_the_published_scale_and_the_prior(norm, scale):
    contrast = TextContrast(6, norm, BN)
    assert contrast.log_scale.exp().item() == pytest.approx(scale, rel=1e-4)
    assert contrast.shift.sigmoid().item() == pytest.approx(0.01)
    contrast(torch.randn(2, 6, 3, 4), torch.randn(1, 5, 6)).sum().backward()
    assert all(parameter.grad is not None for parameter in contrast.parameters())


def test_a_contrast_is_made_in_full_precision():
    contrast, regions, texts = TextContrast(24, "l2", BN), torch.randn(1, 24, 3, 4), torch.randn(1, 5, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrast(regions, texts)
    torch.testing.assert_close(found, contrast(regions, texts))


def test_the_loss_is_the_cross_entropy_of_similarities_and_assignments():
    similarities = torch.randn(5, 3, requires_grad=True)
    labels, fits = torch.tensor([0, 2, 3, 3, 1]), torch.tensor([0.9, 0.4, 0.0, 0.0, 1.0])
    targets = torch.zeros(5, 3)
    targets[[0, 1, 4], [0, 2, 1]] = torch.tensor([0.9, 0.4, 1.0])
    p = similarities.detach().sigmoid()
    of_each = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(dim=1)
    loss = RegionTextContrastiveLoss(loss_weight=0.5)
    torch.testing.assert_close(loss(similarities, (labels, fits), avg_factor=2.0), 0.5 * of_each.sum() / 2)
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    weighed = loss(similarities, (labels, fits), weight, reduction_override="sum")
    torch.testing.assert_close(weighed, 0.5 * (of_each * weight).sum())
    weighed.backward()
    torch.testing.assert_close(similarities.grad, 0.5 * (p - targets) * weight[:, None])
