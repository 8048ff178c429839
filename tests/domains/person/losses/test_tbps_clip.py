"""TBPS-CLIP's terms beside the released code's numbers and their equations."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.person import tbps_clip

from vladapt import CapabilityError, ConfigError, build_loss

NAMES = ("image_features", "text_features", "image_view2")
OPTIONS = {"mlp_dim": 6, "emb_dim": 5}


def test_values_and_gradients_are_the_released_ones(agrees):
    agrees(tbps_clip)


def example(labels, seed=0, width=5):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(5, len(labels), width, generator=generator, dtype=torch.float64)
    out = {name: F.normalize(x, dim=1).requires_grad_() for name, x in zip(NAMES, drawn)}
    out |= {f"projected_view{number}": x.requires_grad_() for number, x in zip((1, 2), drawn[3:])}
    return {**out, "labels": torch.tensor(labels), "logit_scale": torch.tensor(7.0, dtype=torch.float64)}


def built(**options):
    torch.manual_seed(0)
    return build_loss("tbps-clip", {"embed_dim": 5}, **{**OPTIONS, **options}).double()


def by_hand(out, soft):
    """The four terms of the paper, a direction at a time, on whole matrices."""
    labels, scale = out["labels"], out["logit_scale"]
    same = (labels[:, None] == labels).double()
    even = same / same.sum(dim=1, keepdim=True)

    def contrast(logits):
        targets = soft * logits.softmax(dim=1).detach() + (1 - soft) * even
        return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()

    image, text, other = (F.normalize(out[name], dim=1) for name in NAMES)
    logits, second = scale * image @ text.T, scale * other @ text.T
    nitc = sum(contrast(x) for x in (logits, logits.T, second, second.T)) / 4
    reversed_ = [x.softmax(1) * (x.log_softmax(1) - (even + 0.01).log()) for x in (logits, logits.T)]
    ritc = sum(x.sum(dim=1).mean() for x in reversed_) / 2
    across = image @ text.T - text @ image.T
    citc = 0.25 * (image @ image.T - text @ text.T).square().mean() + 0.25 * across.square().mean()
    return {"nitc": nitc, "ritc": ritc, "citc": citc}


@settings(max_examples=10)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.integers(0, 100), st.sampled_from([0.0, 0.1, 1.0]))
def test_values_and_gradients_are_the_equations(labels, seed, progress):
    out, loss = example(labels, seed), built()
    parts, known = loss(out, progress), by_hand(out, 0.5 * min(1.0, progress / 0.2))
    for name, value in known.items():
        torch.testing.assert_close(parts[name], value)
    weighed = known["nitc"] + known["ritc"] + 0.1 * known["citc"]
    torch.testing.assert_close(parts["loss"], weighed + 0.4 * parts["simclr"])
    learned = [out[name] for name in NAMES]
    ours = torch.autograd.grad(parts["loss"], learned)
    for gradient, wanted in zip(ours, torch.autograd.grad(weighed, learned)):
        torch.testing.assert_close(gradient, wanted)


def test_every_term_and_option_changes_the_loss():
    out, plain = example([0, 1, 0, 2, 1]), built()
    value = plain(out, 1.0)["loss"]
    defaults = {"nitc": 1.0, "ritc": 1.0, "citc": 0.1, "simclr": 0.4, "soft": 0.5, "ramp": 0.2, "epsilon": 0.01}
    assert {name: getattr(plain, name) for name in defaults} == defaults
    for term in ("nitc", "ritc", "citc", "simclr"):
        without = built(**{term: 0.0})
        assert abs(without(out, 1.0)["loss"] - value) > 1e-3, term
        assert term not in without(out, 1.0)
    others = {"soft": 0.2, "second_view": False, "epsilon": 0.1, "in_modal": 1.0, "cross_modal": 1.0}
    for name, other in {**others, "temperature": 0.3}.items():
        assert abs(built(**{name: other})(out, 1.0)["loss"] - value) > 1e-4, name
    assert abs(built(ramp=0.5)(out, 0.2)["loss"] - plain(out, 0.2)["loss"]) > 1e-4


def test_soft_targets_rise_over_the_first_epoch_and_no_further():
    out, loss = example([0, 1, 2, 2]), built()
    values = [float(loss(out, progress)["nitc"].detach()) for progress in (0.0, 0.1, 0.2, 0.9)]
    hard = float(built(soft=0.0)(out, 0.5)["nitc"].detach())
    assert values[0] == pytest.approx(hard) and values[2] == values[3] != values[1] != values[0]


def test_a_term_of_weight_0_needs_nothing():
    alone = {"nitc": 0, "ritc": 0, "citc": 0, "simclr": 0}
    assert built(**{**alone, "citc": 1.0}).needs == {"image_features", "text_features"}
    assert built(**{**alone, "simclr": 1.0}).needs == {"projected_view1", "projected_view2"}
    assert "image_view2" not in built(second_view=False).needs
    assert build_loss("tbps-clip", simclr=0).needs == {*NAMES, "labels", "logit_scale"}  # no width is asked for


def test_what_is_wrong_is_said():
    with pytest.raises(CapabilityError, match="embed_dim"):
        build_loss("tbps-clip")
    for option in ({"soft": 1.5}, {"epsilon": 0}, {"temperature": 0}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            built(**option)
