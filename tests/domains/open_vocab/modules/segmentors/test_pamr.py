import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.domains.open_vocab.modules.segmentors.sclip import refine_masks


def literal(image, mask, steps, dilations):
    """The paper's sums, pixel by pixel."""
    _, height, width = image.shape

    def at(x, row, column):
        return x[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    places = [(d * dy, d * dx) for d in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    around = [place for place in places if place != (0, 0)]
    for _ in range(steps):
        moved = torch.zeros_like(mask)
        for row in range(height):
            for column in range(width):
                all_nine = torch.stack([at(image, row + dy, column + dx) for dy, dx in places])
                spread = all_nine.std(dim=0)
                unlike = [
                    ((at(image, row, column) - at(image, row + dy, column + dx)).abs() / (1e-8 + 0.1 * spread)).mean()
                    for dy, dx in around
                ]
                weights = torch.softmax(-torch.stack(unlike), dim=0)
                others = torch.stack([at(mask, row + dy, column + dx) for dy, dx in around])
                moved[:, row, column] = (weights[:, None] * others).sum(dim=0)
        mask = moved
    return mask


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 6, 7, generator=generator), torch.rand(2, 4, 6, 7, generator=generator)


@pytest.mark.parametrize(("steps", "dilations"), [(1, (1,)), (2, (1, 2)), (1, (2, 3))])
def test_is_the_sum_over_neighbours(drawn, steps, dilations):
    images, masks = drawn
    ours = refine_masks(images, masks, steps, dilations)
    for image, mask, refined in zip(images, masks, ours):
        torch.testing.assert_close(refined, literal(image, mask, steps, dilations), atol=1e-5, rtol=1e-5)


def test_masks_move_to_the_edges_of_colours():
    image = torch.zeros(1, 3, 8, 16)
    image[..., 8:] = 1.0
    mask = torch.zeros(1, 2, 8, 16)
    mask[:, 0, :, :6], mask[:, 1, :, 6:] = 1.0, 1.0  # two columns short of the edge
    refined = refine_masks(image, mask, 40, (1,))
    assert refined[0, 0, :, :8].mean() > 0.6 and refined[0, 1, :, 8:].mean() > 0.95
    torch.testing.assert_close(refined.sum(dim=1), torch.ones(1, 8, 16), atol=1e-4, rtol=1e-4)


def test_no_steps_change_nothing(drawn):
    images, masks = drawn
    torch.testing.assert_close(refine_masks(images, masks, 0), masks)
