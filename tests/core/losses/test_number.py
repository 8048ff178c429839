"""The loss that trains towers on numbers: its equations, what it leaves out, and where it starts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt import build_loss
from vladapt.core.errors import CapabilityError, ConfigError


def outputs(width=6, count=9):
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(count, width, generator=generator), dim=-1)
    return {"image_features": features, "number": 3 + 2 * torch.randn(count, generator=generator)}


def of(error="mse", **options):
    loss = build_loss("number", dims={"embed_dim": 6}, error=error, mean=3.0, deviation=2.0, **options)
    weight = torch.linspace(-1, 1, 6)
    loss.start(torch.full((6,), 0.1), torch.full((6,), 0.5), weight, 0.25)
    return loss, weight


@pytest.mark.parametrize(
    ("error", "by_hand"),
    [
        ("mse", lambda e: e**2),
        ("l1", lambda e: e.abs()),
        ("huber", lambda e: torch.where(e.abs() <= 1, e**2 / 2, e.abs() - 0.5)),
    ],
)
def test_its_value_is_the_error_of_standardised_numbers(error, by_hand):
    out, (loss, weight) = outputs(), of(error)
    answers = ((out["image_features"] - 0.1) / 0.5) @ weight + 0.25
    expected = by_hand(answers - (out["number"] - 3) / 2).mean()
    assert loss(out)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_images_without_a_number_teach_nothing():
    out, (loss, _) = outputs(), of()
    some = {name: values[:5] for name, values in out.items()}
    out["number"][5:] = torch.nan
    out["image_features"].requires_grad_()
    value = loss(out)["loss"]
    assert value.item() == pytest.approx(loss(some)["loss"].item(), rel=1e-5)
    value.backward()
    gradient = out["image_features"].grad
    assert bool(gradient.isfinite().all()) and bool((gradient[5:] == 0).all()) and bool((gradient[:5] != 0).any())


def test_its_layer_and_the_features_are_trained():
    out, (loss, _) = outputs(), of()
    out["image_features"].requires_grad_()
    loss(out)["loss"].backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in loss.parameters())
    assert bool((out["image_features"].grad != 0).any())


def test_what_it_cannot_be_made_with_is_refused():
    with pytest.raises(CapabilityError, match="embed_dim"):
        build_loss("number")
    with pytest.raises(ConfigError, match="error"):
        build_loss("number", dims={"embed_dim": 4}, error="hinge")
