"""Distillation: features, similarities, and DCD's dynamic negatives."""

import math

import pytest
import torch
import torch.nn.functional as F
from parity_checks.losses import distill

from vladapt import CapabilityError, ConfigError, build_loss

TERMS = ("feature", "similarity", "dynamic")


def outputs(seed=0, batch=5, width=6, teacher_width=6):
    generator = torch.Generator().manual_seed(seed)

    def unit(width):
        return F.normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64), dim=-1)

    return {
        "image_features": unit(width).requires_grad_(),
        "text_features": unit(width).requires_grad_(),
        "teacher.image": unit(teacher_width).requires_grad_(),
        "teacher.text": unit(teacher_width).requires_grad_(),
        "logit_scale": torch.tensor(8.0, dtype=torch.float64, requires_grad=True),
        "teacher.logit_scale": torch.tensor(5.0, dtype=torch.float64, requires_grad=True),
    }


def only(term, dims=None, **options):
    torch.manual_seed(0)
    return build_loss("distill", dims, **{name: float(name == term) for name in TERMS}, **options).double()


def agree(ours, theirs, out):
    torch.testing.assert_close(ours, theirs)
    for name in ("image_features", "text_features"):
        one, other = (torch.autograd.grad(value, out[name], retain_graph=True)[0] for value in (ours, theirs))
        torch.testing.assert_close(one, other)


def test_similarities_agree_with_open_clip(agrees):
    agrees(distill)


def test_features_are_drawn_to_the_teachers():
    out = outputs(1)
    by_hand = sum(
        ((out[ours][i] - out[theirs][i].detach()) ** 2).sum() / 5
        for i in range(5)
        for ours, theirs in (("image_features", "teacher.image"), ("text_features", "teacher.text"))
    )
    agree(only("feature", reduction="sum")(out)["loss"], by_hand, out)
    agree(only("feature")(out)["loss"], by_hand / 6, out)


def test_features_are_compared_as_the_released_code_of_clip_kd_does():
    out = outputs(1)
    theirs = sum(
        F.mse_loss(out[ours], out[of_teacher].detach())
        for ours, of_teacher in (("image_features", "teacher.image"), ("text_features", "teacher.text"))
    )
    agree(only("feature")(out)["loss"], theirs, out)
    with pytest.raises(ConfigError, match="reduction=max"):
        only("feature", reduction="max")


def test_a_teacher_of_another_width_is_met_through_a_linear_layer():
    out = outputs(2, teacher_width=4)
    loss = only("feature", {"embed_dim": 6, "teacher_dim": 4})
    by_hand = 0.0
    for i in range(5):
        for name, theirs, layer in (
            ("image_features", "teacher.image", loss.image_map),
            ("text_features", "teacher.text", loss.text_map),
        ):
            mapped = layer.weight @ out[name][i] + layer.bias
            by_hand = by_hand + ((mapped / mapped.norm() - out[theirs][i].detach()) ** 2).sum() / 5
    agree(loss(out)["loss"], by_hand / 4, out)
    agree(only("feature", {"embed_dim": 6, "teacher_dim": 4}, reduction="sum")(out)["loss"], by_hand, out)
    with pytest.raises(CapabilityError, match="width 6 with a teacher's of 4"):
        only("feature")(out)
    assert not list(only("feature", {"embed_dim": 6, "teacher_dim": 6}).parameters())


def dynamic_by_hand(out, negatives, alpha):
    """DCD image by image, in its own order of things."""
    batch = len(out["image_features"])
    scores = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    known = (out["teacher.logit_scale"] * out["teacher.image"] @ out["teacher.text"].T).detach()
    rows, entropies = [], []
    for i in range(batch):
        others = sorted((j for j in range(batch) if j != i), key=lambda j: -known[i, j])[:negatives]
        rows.append([i, *others])
        p = known[i][rows[i]].softmax(0)
        entropies.append(float(-(p * p.log()).sum()))
    shares = [entropy / sum(entropies) for entropy in entropies]
    weights = [math.exp((1 - share) ** 2) for share in shares]
    followed = told = 0.0
    for i, row in enumerate(rows):
        mine, theirs = scores[i][row], known[i][row]
        followed = followed + weights[i] / sum(weights) * ((mine - theirs) ** 2).mean()
        costs = [-torch.log(mine[0].sigmoid()), *(-torch.log(1 - score.sigmoid()) for score in mine[1:])]
        told = told + shares[i] * sum(costs) / len(costs)
    return alpha * followed + (1 - alpha) * told


@pytest.mark.parametrize(("negatives", "alpha"), [(2, 0.2), (2, 1.0), (2, 0.0), (7, 0.2)])
def test_dynamic_negatives_are_dcds(negatives, alpha):
    out = outputs(3)
    agree(only("dynamic", negatives=negatives, alpha=alpha)(out)["loss"], dynamic_by_hand(out, negatives, alpha), out)


def test_the_teacher_leads_where_it_is_certain_the_labels_where_it_is_not():
    out = outputs(4)
    texts = torch.eye(6, dtype=torch.float64)[:5]
    certain, unsure = texts.clone(), texts.clone()
    unsure[0] = F.normalize(torch.ones(6, dtype=torch.float64), dim=0)
    moved = {}
    for alpha in (0.0, 1.0):
        for name, images in (("certain", certain), ("unsure", unsure)):
            given = {**out, "teacher.image": images, "teacher.text": texts}
            loss = only("dynamic", alpha=alpha, negatives=4)(given)["loss"]
            (gradient,) = torch.autograd.grad(loss, out["image_features"])
            moved[alpha, name] = gradient[0].norm()
    assert moved[0.0, "unsure"] > 2 * moved[0.0, "certain"]


def test_a_teacher_that_is_sure_of_everything_is_no_reason_for_nan():
    out = outputs(5)
    out["teacher.logit_scale"] = torch.tensor(1e6, dtype=torch.float64)
    loss = only("dynamic", alpha=0.0)(out)["loss"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(out["image_features"].grad).all()


@pytest.mark.parametrize("term", TERMS)
def test_no_gradient_reaches_the_teacher(term):
    out = outputs(6)
    only(term)(out)["loss"].backward()
    assert all(value.grad is None for name, value in out.items() if name.startswith("teacher."))


@pytest.mark.parametrize("term", ["feature", "similarity"])
def test_image_and_text_may_change_places(term):
    out = outputs(7)
    places = {"image_features": "text_features", "teacher.image": "teacher.text"}
    places.update({b: a for a, b in places.items()})
    swapped = {places.get(name, name): value for name, value in out.items()}
    torch.testing.assert_close(only(term)(out)["loss"], only(term)(swapped)["loss"])


@pytest.mark.parametrize("term", TERMS)
def test_its_gradient_is_that_of_differences(term):
    out = outputs(8, batch=4, width=3, teacher_width=3)
    names = ("image_features", "text_features", "logit_scale")

    def value(*given):
        return only(term)({**out, **dict(zip(names, given))})["loss"]

    assert torch.autograd.gradcheck(value, tuple(out[name] for name in names))


def test_terms_are_summed_by_weight():
    out = outputs(9)
    parts = build_loss("distill", feature=0.5, similarity=2.0, dynamic=0.1)(out)
    torch.testing.assert_close(
        parts["loss"], 0.5 * parts["feature"] + 2.0 * parts["similarity"] + 0.1 * parts["dynamic"]
    )
    assert set(build_loss("distill")(out)) == {"loss", "feature", "similarity"}


def test_features_alone_need_no_scale():
    assert only("feature").needs == {"image_features", "text_features", "teacher.image", "teacher.text"}
    assert only("similarity").needs == only("feature").needs | {"logit_scale", "teacher.logit_scale"}
