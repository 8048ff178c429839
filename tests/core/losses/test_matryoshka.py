"""Matryoshka: another loss at several widths, with all that the other loss has."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import CapabilityError, ConfigError, UnknownNameError, build_loss
from vladapt.core.contracts.outputs import OUTPUTS
from vladapt.core.losses.matryoshka import halvings

DIMS = {"embed_dim": 24, "image_width": 20, "text_width": 16, "vocab_size": 50, "num_samples": 32}
SMALL_DECLIP = {"queue_size": 40, "projector_width": 8, "predictor_width": 4}


def outputs(seed=0, batch=5, width=24):
    generator = torch.Generator().manual_seed(seed)

    def unit():
        return F.normalize(torch.randn(batch, width, generator=generator, dtype=torch.float64), dim=-1)

    return {
        "image_features": unit().requires_grad_(),
        "text_features": unit().requires_grad_(),
        "logit_scale": torch.tensor(8.0, dtype=torch.float64),
    }


def clip_at(out, width):
    def cut(row):  # what is whole already has length 1
        return row if width == len(row) else row[:width] / row[:width].norm()

    image, text = ([cut(row) for row in out[name]] for name in ("image_features", "text_features"))
    total = 0.0
    for a, b in ((image, text), (text, image)):
        for i, row in enumerate(a):
            logits = torch.stack([out["logit_scale"] * row @ other for other in b])
            total = total - (logits[i] - logits.exp().sum().log()) / len(a)
    return total / 2


def test_it_is_the_papers_sum_over_widths():
    out = outputs(1)
    for options, factors in (({}, (0.5, 0.5)), ({"weights": (1.0, 1.0)}, (1, 1)), ({"weights": (2.0, 0.3)}, (2, 0.3))):
        parts = build_loss("matryoshka", DIMS, **options)(out)
        wanted = factors[0] * clip_at(out, 24) + factors[1] * clip_at(out, 12)
        torch.testing.assert_close(parts["loss"], wanted)
        torch.testing.assert_close(parts["width_12"], clip_at(out, 12))
        (ours,) = torch.autograd.grad(parts["loss"], out["image_features"])
        (theirs,) = torch.autograd.grad(wanted, out["image_features"])
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (2048, (2048, 1024, 512, 256, 128, 64, 32, 16, 8)),
        (768, (768, 384, 192, 96, 48, 24, 12)),
        (24, (24, 12)),
        (15, (15,)),
    ],
)
def test_widths_are_halved_as_published(width, widths):
    assert halvings(width) == widths


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 24))
def test_numbers_beyond_the_width_mean_nothing(seed, width):
    out, loss = outputs(seed), build_loss("matryoshka", DIMS, widths=(width,))
    changed = {name: value.detach().clone() for name, value in out.items()}
    changed["image_features"][:, width:] = 0
    changed["image_features"] = F.normalize(changed["image_features"], dim=-1)
    torch.testing.assert_close(loss(out)["loss"], loss(changed)["loss"])


def test_at_the_whole_width_alone_it_is_the_other_loss():
    out = outputs(2)
    torch.testing.assert_close(
        build_loss("matryoshka", DIMS, widths=(24,), loss="rankclip")(out)["loss"],
        build_loss("rankclip", DIMS)(out)["loss"],
    )


@pytest.mark.parametrize(
    "other", [{"widths": (24, 6)}, {"weights": (1, 2)}, {"loss": "ro-vit"}, {"loss_options": {"label_smoothing": 0.2}}]
)
def test_each_option_changes_the_result(other):
    out = outputs(3)
    assert (
        abs(build_loss("matryoshka", DIMS)(out)["loss"] - build_loss("matryoshka", DIMS, **other)(out)["loss"]) > 1e-5
    )


@pytest.mark.parametrize("name", ["declip", "filip", "prolip", "dreamlip", "siglip", "distill", "silc", "slip"])
def test_losses_with_heads_tokens_and_variances_can_be_cut(name, example_out, dims):
    options = {"declip": SMALL_DECLIP, "silc": {"out_dim": 30}, "slip": {"mlp_dim": 8}}.get(name, {})
    torch.manual_seed(0)
    loss = build_loss("matryoshka", dims, loss=name, widths=(12,), loss_options=options)
    assert loss.needs == build_loss(name, dims, **options).needs
    out = example_out(loss.needs)
    out = {n: v.requires_grad_() if v.is_floating_point() else v for n, v in out.items()}
    loss(out)["loss"].backward()
    reached = {n: v.grad for n, v in out.items() if v.is_floating_point() and v.grad is not None}
    cut = [gradient for n, gradient in reached.items() if OUTPUTS[n].shape[-1:] == ("D",)]
    assert cut and all(torch.isfinite(gradient).all() for gradient in reached.values())
    assert all(g[..., :12].abs().max() > 0 and g[..., 12:].abs().max() == 0 for g in cut)


def test_a_frozen_teacher_is_left_whole_and_an_average_is_cut(example_out, dims):
    out = example_out(build_loss("distill", dims).needs)
    seen = []
    loss = build_loss("matryoshka", dims, loss="distill")
    for inner in loss.inner.values():
        inner.compute_rows = lambda given, ranks, progress: (
            seen.append(given) or {"loss": given["image_features"].sum()}
        )
    loss(out)
    assert [given["image_features"].shape[1] for given in seen] == [24, 12]
    assert all(torch.equal(given["teacher.image"], out["teacher.image"]) for given in seen)
    loss.teacher = "ema"
    loss(out)
    assert seen[-1]["teacher.image"].shape[1] == 12
    torch.testing.assert_close(seen[-1]["teacher.image"].norm(dim=1), torch.ones(8))


def test_queues_move_at_each_width(example_out, dims):
    torch.manual_seed(0)
    loss = build_loss("matryoshka", dims, loss="declip", loss_options=SMALL_DECLIP)
    out = example_out(loss.needs)
    loss(out)
    loss.after_step(None)
    for width, inner in loss.inner.items():
        texts = F.normalize(out["text_features"][:, : int(width)], dim=-1)
        torch.testing.assert_close(inner.queue.rows[8:16], texts)
        assert inner.queue.pointer == 16


def test_the_training_set_is_gone_through_once(example_out, dims):
    class Watching(torch.nn.Module):
        def before_epoch(self, extract):
            self.saw = extract(["image_features", "text_features"])

    loss = build_loss("matryoshka", dims)
    loss.inner = torch.nn.ModuleDict({"24": Watching(), "12": Watching()})
    asked = []

    def extract(names):
        asked.append(names)
        return example_out(names)

    loss.before_epoch(extract)
    assert asked == [["image_features", "text_features"]]
    assert [inner.saw["text_features"].shape[1] for inner in loss.inner.values()] == [24, 12]


def test_what_is_done_to_the_towers_is_that_of_the_other_loss(dims):
    plain = build_loss("matryoshka", dims)
    assert plain.teacher is None and plain.logit_scale_bounds == (1.0, 100.0) and plain.n_prefix == 0
    silc = build_loss("matryoshka", dims, loss="silc", loss_options={"out_dim": 9})
    assert silc.teacher == "ema" and silc.experimental and silc.teacher_momentum(0.3) == 0.966
    copied = copy.deepcopy(silc)
    assert copied.teacher_momentum.__self__ is next(iter(copied.inner.values()))
    positions = build_loss("matryoshka", dims, loss="ro-vit")
    assert positions.prepare.__self__ is next(iter(positions.inner.values()))


def test_prefixes_of_the_other_loss_reach_the_texts(dims):
    prefixed = build_loss("matryoshka", dims, loss="unicl", loss_options={"n_prefix": 2})
    widest = next(iter(prefixed.inner.values()))
    assert prefixed.n_prefix == 2 and torch.equal(prefixed.prompt_prefix(), widest.prompt_prefix())
    assert prefixed.text_prompt.__self__ is widest


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"widths": (25,)}, ConfigError, "widths"),
        ({"widths": (8, 8)}, ConfigError, "widths"),
        ({"widths": ()}, ConfigError, "widths"),
        ({"weights": (1.0,)}, ConfigError, "weights"),
        ({"weights": (1.0, -1.0)}, ConfigError, "weights"),
        ({"loss": "matryoshka"}, ConfigError, "loss=matryoshka"),
        ({"loss": "clipp"}, UnknownNameError, "clip"),
        ({"loss_options": {"smoothing": 1}}, UnknownNameError, "smoothing"),
    ],
)
def test_unusable_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        build_loss("matryoshka", DIMS, **options)


def test_it_says_which_width_it_lacks():
    with pytest.raises(CapabilityError, match=r"dims\['embed_dim'\]"):
        build_loss("matryoshka")
