"""SLIP: CLIP's loss and SimCLR's, each as released."""

import pytest
import torch
import torch.nn.functional as F
from parity_checks.losses import slip

from vladapt import CapabilityError, build_loss
from vladapt.core.losses.slip import nt_xent

DIMS = {"image_width": 10}


def outputs(seed=0, batch=6, width=10):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return {
        "image_features": F.normalize(draw(batch, 7), dim=-1),
        "text_features": F.normalize(draw(batch, 7), dim=-1),
        "hidden_view1": draw(batch, width),
        "hidden_view2": draw(batch, width),
        "logit_scale": torch.tensor(9.0, dtype=torch.float64),
    }


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_loss("slip", DIMS, **{"mlp_dim": 8, "emb_dim": 5, **options}).double()


def test_it_agrees_with_the_released_code(agrees):
    agrees(slip)


def test_simclr_pair_by_pair():
    out = outputs(1)
    first, second = out["hidden_view1"], out["hidden_view2"]
    views = [*F.normalize(first, dim=-1), *F.normalize(second, dim=-1)]
    total, count = 0.0, len(views)
    for i in range(count):
        others = torch.stack([views[i] @ views[j] / 0.3 for j in range(count) if j != i])
        total = total - (views[i] @ views[(i + count // 2) % count] / 0.3 - others.logsumexp(0))
    torch.testing.assert_close(nt_xent(first, second, 0.3), total / count)
    torch.testing.assert_close(nt_xent(first, second, 0.3), nt_xent(second, first, 0.3))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (first, second))


def test_the_head_is_the_published_one():
    head = build_loss("slip", DIMS).projector
    assert [tuple(p.shape) for p in head.parameters() if p.ndim == 2] == [(4096, 10), (4096, 4096), (256, 4096)]
    assert [type(layer).__name__ for layer in head] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize("other", [{"temperature": 0.5}, {"ssl_scale": 0.3}, {"mlp_dim": 0}, {"emb_dim": 3}])
def test_each_option_changes_the_result(other):
    assert abs(small()(outputs(2))["loss"] - small(**other)(outputs(2))["loss"]) > 1e-4


def test_both_parts_reach_what_they_are_made_of():
    out = outputs(3)
    parts = small(ssl_scale=0.5)(out)
    torch.testing.assert_close(parts["loss"], parts["clip"] + 0.5 * parts["ssl"])
    for name in ("image_features", "text_features", "hidden_view1", "hidden_view2"):
        assert torch.autograd.grad(parts["loss"], out[name], retain_graph=True)[0].abs().max() > 1e-4


def test_image_and_text_and_both_views_may_change_places():
    out = outputs(4)
    swapped = {
        "image_features": out["text_features"],
        "text_features": out["image_features"],
        "hidden_view1": out["hidden_view2"],
        "hidden_view2": out["hidden_view1"],
        "logit_scale": out["logit_scale"],
    }
    torch.testing.assert_close(small()(out)["loss"], small()(swapped)["loss"])


def test_without_self_supervision_no_further_view_is_needed():
    loss = build_loss("slip", ssl_scale=0.0)
    assert loss.needs == {"image_features", "text_features", "logit_scale"} and not list(loss.parameters())
    out = {name: value for name, value in outputs(5).items() if name in loss.needs}
    parts = loss(out)
    torch.testing.assert_close(parts["loss"], parts["clip"])


def test_it_says_which_width_it_lacks():
    with pytest.raises(CapabilityError, match=r"dims\['image_width'\]"):
        build_loss("slip", {"embed_dim": 6})
