"""RO-ViT: the focal loss pair by pair, and regions of a grid of positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import ConfigError, build_loss
from vladapt.core.losses._cropped_positions import crop_grid, random_regions


def outputs(seed=0, batch=5, width=6):
    generator = torch.Generator().manual_seed(seed)

    def unit():
        return F.normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64), dim=-1)

    return {
        "image_features": unit().requires_grad_(),
        "text_features": unit().requires_grad_(),
        "logit_scale": torch.tensor(7.0, dtype=torch.float64, requires_grad=True),
    }


def by_hand(out, gamma, alpha=0.5):
    total, batch = 0.0, len(out["image_features"])
    for i in range(batch):
        for j in range(batch):
            alike = torch.sigmoid(out["logit_scale"] * out["image_features"][i] @ out["text_features"][j])
            p = alike if i == j else 1 - alike
            total = total - 2 * (alpha if i == j else 1 - alpha) * (1 - p) ** gamma * p.log()
    return total / batch


@pytest.mark.parametrize(("gamma", "alpha"), [(1.0, 0.5), (0.0, 0.5), (2.5, 0.5), (1.0, 0.8)])
def test_it_is_the_papers_equation(gamma, alpha):
    out = outputs(1)
    value, wanted = build_loss("ro-vit", gamma=gamma, alpha=alpha)(out)["loss"], by_hand(out, gamma, alpha)
    torch.testing.assert_close(value, wanted)
    for name in out:
        ours, theirs = (torch.autograd.grad(each, out[name], retain_graph=True)[0] for each in (value, wanted))
        torch.testing.assert_close(ours, theirs)


def test_focusing_is_what_sets_it_apart_from_a_sigmoid_loss():
    out = outputs(2)
    plain = build_loss("ro-vit", gamma=0.0)(out)["loss"]
    assert build_loss("ro-vit")(out)["loss"] < plain - 0.05


def test_image_and_text_may_change_places():
    out = outputs(3)
    swapped = {**out, "image_features": out["text_features"], "text_features": out["image_features"]}
    torch.testing.assert_close(build_loss("ro-vit")(out)["loss"], build_loss("ro-vit")(swapped)["loss"])


def test_its_gradient_is_that_of_differences_and_finite_far_out():
    loss, out = build_loss("ro-vit", gamma=1.5), outputs(4, batch=3, width=4)
    assert torch.autograd.gradcheck(lambda *given: loss(dict(zip(out, given)))["loss"], tuple(out.values()))
    far = {**outputs(5), "logit_scale": torch.tensor(1e5, requires_grad=True)}
    value = loss(far)["loss"]
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(far["image_features"].grad).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9), st.floats(0.2, 1.0))
def test_regions_are_within_the_square_and_their_ranges(seed, smallest, narrowest):
    torch.manual_seed(seed)
    regions = random_regions(50, (smallest, 1.0), (narrowest, 2.0))
    top, left, height, width = regions.double().unbind(1)
    assert (regions >= 0).all() and (top + height <= 1 + 1e-6).all() and (left + width <= 1 + 1e-6).all()
    assert (height * width >= smallest - 1e-5).all()
    aspects, whole = width / height, (width == 1) & (height == 1)
    assert (((aspects >= narrowest - 1e-5) & (aspects <= 2 + 1e-5)) | whole).all()


def test_parts_of_a_batch_draw_what_the_whole_draws():
    ranges = ((0.1, 1.0), (0.5, 2.0))
    torch.manual_seed(0)
    whole = random_regions(7, *ranges)
    torch.manual_seed(0)
    assert torch.equal(whole, torch.cat([random_regions(3, *ranges), random_regions(4, *ranges)]))


def test_the_whole_is_taken_where_no_region_fits():
    regions = random_regions(3, (0.99, 1.0), (4.0, 4.0))
    assert torch.equal(regions, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4))


def test_regions_spread_over_their_ranges():
    torch.manual_seed(0)
    top, _, height, width = random_regions(4000, (0.1, 1.0), (0.5, 2.0)).unbind(1)
    areas, aspects = height * width, (width / height).log()
    assert areas.min() < 0.15 and areas.max() > 0.9
    assert abs(aspects.mean()) < 0.05 and aspects.min() < -0.6 and aspects.max() > 0.6
    assert abs((top / (1 - height).clamp(min=1e-6)).clamp(0, 1).mean() - 0.5) < 0.05


def test_a_crop_is_up_sampled_cut_out_and_resized():
    torch.manual_seed(1)
    side, fine, grid = 4, 16, (3, 5)
    table = torch.randn(side * side, 7, dtype=torch.float64)
    square = table.T.reshape(1, 7, side, side)
    up = F.interpolate(square, size=(fine, fine), mode="bilinear", align_corners=False)[0]  # (7, fine, fine)
    regions = torch.tensor([[0.25, 0.125, 0.5, 0.75], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    cropped = crop_grid(table, regions, grid, fine).view(2, *grid, 7)
    for k, (top, left, height, width) in enumerate(regions.tolist()):
        for i in range(grid[0]):
            for j in range(grid[1]):
                y = min(max((top + height * (i + 0.5) / grid[0]) * fine - 0.5, 0), fine - 1)
                x = min(max((left + width * (j + 0.5) / grid[1]) * fine - 0.5, 0), fine - 1)
                y0, x0 = math.floor(y), math.floor(x)
                y1, x1 = min(y0 + 1, fine - 1), min(x0 + 1, fine - 1)
                upper = up[:, y0, x0] * (1 - x + x0) + up[:, y0, x1] * (x - x0)
                lower = up[:, y1, x0] * (1 - x + x0) + up[:, y1, x1] * (x - x0)
                torch.testing.assert_close(cropped[k, i, j], upper * (1 - y + y0) + lower * (y - y0))


def test_the_whole_grid_up_sampled_to_itself_is_itself():
    table = torch.randn(9, 2)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(crop_grid(table, whole, (3, 3), 3)[0], table)


@pytest.mark.parametrize(
    "other", [{"fine_grid": 5}, {"crop_scale": (0.1, 0.2)}, {"crop_aspect": (0.2, 0.25)}, {"cropped_positions": False}]
)
def test_each_option_of_the_crops_changes_them(other):
    assert not torch.equal(_patches(), _patches(**other))


def _patches(**options):
    """What a toy tower's patches are in training once the loss has prepared it."""
    tower = torch.nn.Module()
    torch.manual_seed(3)
    tower.conv, tower.table = torch.nn.Conv2d(3, 5, 4, 4), torch.nn.Parameter(torch.randn(1 + 16, 5))
    build_loss("ro-vit", **options).prepare(_Backbone(tower))
    torch.manual_seed(0)
    return tower.conv(torch.ones(2, 3, 16, 16))


class _Backbone:
    spec = "toy"

    def __init__(self, tower):
        self.tower = tower

    def image_positions(self):
        from vladapt.core.backbones.positions import ImagePositions

        return ImagePositions(self.tower.conv, self.tower, "table", 1)


def test_aspects_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match="crop_aspect"):
        build_loss("ro-vit", crop_aspect=(2, 1))
