"""SILC: CLIP and self-distillation from local to global, with a teacher's head and centre that follow."""

import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.losses._info_nce import info_nce

DIMS = {"image_width": 6}
SMALL = {"out_dim": 9, "hidden_dim": 7, "bottleneck_dim": 4}


def outputs(seed=0, batch=4, views=3):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "image_features": F.normalize(draw(batch, 5), dim=-1).requires_grad_(),
        "text_features": F.normalize(draw(batch, 5), dim=-1).requires_grad_(),
        "logit_scale": torch.tensor(8.0, dtype=torch.float64),
        "hidden_local": draw(batch, views, 6).requires_grad_(),
        "teacher.image_hidden": draw(batch, 6).requires_grad_(),
    }


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_loss("silc", DIMS, **{**SMALL, **options}).double()


def moved(seed=0, **options):
    """A loss whose centre and teacher's head are not as they began."""
    loss = small(seed, **options)
    with torch.no_grad():
        loss.centre.copy_(0.3 * torch.randn(9, generator=torch.Generator().manual_seed(9)))
        for parameter in loss.teacher_head.parameters():
            parameter.add_(0.1)
    return loss


def head_by_hand(head, row):
    layers = list(head.mlp)
    for i, layer in enumerate(layers):
        row = layer.weight @ row + layer.bias if i % 2 == 0 else row * (1 + torch.erf(row / 2**0.5)) / 2
    row = row / row.norm()
    return torch.stack([row @ prototype / prototype.norm() for prototype in head.prototypes])


def by_hand(loss, out):
    total, count = 0.0, 0
    for i in range(len(out["image_features"])):
        scores = head_by_hand(loss.teacher_head, out["teacher.image_hidden"][i]) - loss.centre
        target = (scores / 0.04).exp() / (scores / 0.04).exp().sum()
        for crop in out["hidden_local"][i]:
            given = head_by_hand(loss.head, crop) / 0.1
            total = total - (target.detach() * (given - given.exp().sum().log())).sum()
            count += 1
    return total / count


def test_each_term_by_hand():
    out, loss = outputs(1), moved()
    parts = loss(out)
    wanted = by_hand(loss, out)
    torch.testing.assert_close(parts["distill"], wanted)
    torch.testing.assert_close(
        parts["contrastive"], info_nce(out["image_features"], out["text_features"], out["logit_scale"])
    )
    torch.testing.assert_close(parts["loss"], parts["contrastive"] + parts["distill"])
    for given in (out["hidden_local"], *loss.head.parameters()):
        ours, theirs = (torch.autograd.grad(each, given, retain_graph=True)[0] for each in (parts["distill"], wanted))
        torch.testing.assert_close(ours, theirs)


def test_neither_the_teacher_nor_its_head_gets_a_gradient():
    out, loss = outputs(2), moved()
    loss(out)["loss"].backward()
    assert out["teacher.image_hidden"].grad is None
    assert all(p.grad is None for p in loss.teacher_head.parameters())
    assert all(p.grad.abs().max() > 0 for p in loss.head.parameters())


def test_the_centre_and_the_teachers_head_move_once_a_step():
    out, loss = outputs(3), moved(momentum=0.75, centre_momentum=0.6)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(out, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    loss.after_step(None)
    scores = torch.stack([head_by_hand(loss_before(loss, before), row) for row in out["teacher.image_hidden"]])
    torch.testing.assert_close(loss.centre, 0.6 * before["centre"] + 0.4 * scores.mean(dim=0).detach())
    for name, value in loss.head.named_parameters():
        wanted = 0.75 * before[f"teacher_head.{name}"] + 0.25 * value
        torch.testing.assert_close(dict(loss.teacher_head.named_parameters())[name], wanted.detach())
        assert torch.equal(value, before[f"head.{name}"])
    after = loss.centre.clone()
    loss.after_step(None)
    assert torch.equal(loss.centre, after)


def loss_before(loss, state):
    """The teacher's head as it was."""
    old = small()
    old.load_state_dict(state)
    return old.teacher_head


def test_the_teachers_momentum_is_fixed_as_published_or_dinos():
    published, dino = small(), small(momentum=0.996, final_momentum=1.0)
    assert [published.teacher_momentum(p) for p in (0.0, 0.5, 1.0)] == [0.966] * 3
    assert [dino.teacher_momentum(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.996, 0.998, 1.0])


def test_the_heads_momentum_is_that_of_the_teacher_at_this_time():
    loss = moved(momentum=0.5, final_momentum=1.0)
    before = [p.clone() for p in loss.teacher_head.parameters()]
    loss(outputs(4), 1.0)
    loss.after_step(None)
    assert all(torch.equal(a, b) for a, b in zip(before, loss.teacher_head.parameters()))


def test_the_head_is_dinos():
    torch.manual_seed(0)
    loss = build_loss("silc", DIMS)
    shapes = [tuple(p.shape) for p in loss.head.parameters() if p.ndim == 2]
    assert sorted(shapes) == sorted([(65536, 256), (2048, 6), (2048, 2048), (256, 2048)])
    assert all(torch.equal(a, b) for a, b in zip(loss.head.parameters(), loss.teacher_head.parameters()))


@pytest.mark.parametrize(
    "other",
    [{"contrastive": 0.5}, {"distill": 0.5}, {"teacher_temperature": 0.2}, {"student_temperature": 0.3},
     {"out_dim": 5}, {"hidden_dim": 3}, {"bottleneck_dim": 2}],
)  # fmt: skip
def test_each_option_changes_the_result(other):
    assert abs(small()(outputs(5))["loss"] - small(**other)(outputs(5))["loss"]) > 1e-5


@pytest.mark.parametrize("option", [{"centre_momentum": 0.2}, {"momentum": 0.2}])
def test_each_momentum_changes_what_follows(option):
    results = []
    for options in ({}, option):
        loss = small(**options)
        with torch.no_grad():
            loss.head.mlp[0].weight.add_(0.3)
        for seed in (6, 7):
            value = loss(outputs(seed))["loss"]
            loss.after_step(None)
        results.append(value)
    assert abs(results[0] - results[1]) > 1e-6


@pytest.mark.parametrize(
    ("option", "needs", "teacher"),
    [
        ({"distill": 0}, {"image_features", "text_features", "logit_scale"}, None),
        ({"contrastive": 0}, {"hidden_local", "teacher.image_hidden"}, "ema"),
    ],
)
def test_a_term_alone_needs_only_its_own(option, needs, teacher):
    loss = small(**option)
    assert loss.needs == needs and loss.teacher == teacher
    loss({name: outputs(8)[name] for name in needs})
    loss.after_step(None)


def test_what_is_ours_is_said():
    assert "head" in build_loss("silc", DIMS, **SMALL).experimental


@pytest.mark.parametrize(
    "option", [{"momentum": 2}, {"distill": -1}, {"teacher_temperature": 0}, {"out_dim": 0}, {"final_momentum": -1}]
)
def test_unusable_options_are_named(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        small(**option)


def test_it_refuses_to_minimise_nothing():
    with pytest.raises(ConfigError, match="both weights are 0"):
        small(contrastive=0, distill=0)


def test_it_says_which_width_it_lacks():
    with pytest.raises(CapabilityError, match=r"dims\['image_width'\]"):
        build_loss("silc", {"embed_dim": 6})
