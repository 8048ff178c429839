"""Score maps taught by boxes."""

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.core.errors import ConfigError
from vladapt.registry import MODELS

BOXES = [torch.tensor([[4.0, 0.0, 12.0, 8.0], [8.0, 8.0, 16.0, 16.0]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([1, 0]), torch.zeros(0, dtype=torch.long)]


def loss(**options):
    return MODELS.build({"type": "vladapt.BoxScoreLoss", **options})


@pytest.fixture
def logits():
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def target():
    covered = torch.zeros(2, 3, 4, 4)
    covered[0, 1, 0:2, 1:3] = 1
    covered[0, 0, 2:4, 2:4] = 1
    return covered


def entropy(logits):
    truth = target()
    return -(truth * logits.sigmoid().log() + (1 - truth) * (1 - logits.sigmoid()).log())


def test_the_papers_form_is_the_mean_over_the_image(logits):
    torch.testing.assert_close(loss()(logits, BOXES, LABELS, 4), entropy(logits).mean())


def test_the_released_form_is_the_mean_inside_any_box(logits):
    inside = target().amax(dim=1, keepdim=True).expand(-1, 3, -1, -1).bool()
    torch.testing.assert_close(loss(region="boxes")(logits, BOXES, LABELS, 4), entropy(logits)[inside].mean())


def test_it_is_scaled_by_its_weight(logits):
    torch.testing.assert_close(loss(loss_weight=3.0)(logits, BOXES, LABELS, 4), 3 * entropy(logits).mean())


def test_a_box_marks_every_place_it_touches_however_small():
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    box = [torch.tensor([[5.0, 5.0, 6.0, 6.5]])]
    loss()(logits, box, [torch.tensor([0])], 4).backward()
    marked = (logits.grad < 0)[0, 0].nonzero()
    assert marked.tolist() == [[1, 1]]


def test_no_boxes_at_all_are_no_loss_inside_boxes_and_never_nan(logits):
    empty = ([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.long)] * 2)
    assert loss(region="boxes")(logits, *empty, 4) == 0
    assert torch.isfinite(loss()(logits, *empty, 4))


def test_scores_move_towards_the_boxes(logits):
    learned = logits.clone().requires_grad_()
    loss()(learned, BOXES, LABELS, 4).backward()
    assert ((learned.grad < 0) == target().bool()).all()


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match='option region="mask" is not usable; there are image, boxes'):
        loss(region="mask")
    with pytest.raises(ConfigError, match="option loss_weight=-1 is not usable"):
        loss(loss_weight=-1)
