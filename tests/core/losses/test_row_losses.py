"""Losses that each rank computes of its own rows: the numbers of one process, for 1 / W of its arithmetic."""

from __future__ import annotations

import pytest
import torch
from rank_jobs import arithmetic_of, parts_of

from vladapt import build_loss
from vladapt.core.contracts.loss import RowLoss
from vladapt.core.losses import _info_nce
from vladapt.core.registry import catalogue, loss_class
from vladapt.core.testing.loss_steps import DIMS, steps_elsewhere, steps_of
from vladapt.core.testing.processes import class_place, workers
from vladapt.core.testing.thread_ranks import as_ranks

HEADS_ALONE = {
    "arl",
    "dino-v2",
    "distilbert",
    "identity",
    "irra",
    "m-clip",
    "masked-words",
    "medflip",
    "medklip",
    "medslip",
}
HEADS_ALONE |= {"codebook", "medslip", "r2d2", "fare", "tecoa"}
"""By rows, though what costs is their heads (of medflip a singular vector, which all ranks find alike; of fare and
tecoa the passes of their attacks), not products of pairs."""
NAMES = sorted(
    name
    for name, entry in catalogue.losses().items()
    if entry.entry_point is None and issubclass(loss_class(name), RowLoss) and name not in HEADS_ALONE
)
WIDTH = DIMS["embed_dim"]
NARROW = {
    "silc": {"out_dim": 40, "hidden_dim": 16, "bottleneck_dim": 8},
    "tbps-clip": {"mlp_dim": 8, "emb_dim": 8},
    "unipt": {"words": 0},  # of which ranks have more or fewer
}


def test_these_are_computed_by_rows():
    """Those that compare each row with all others."""
    by_hand = "alip clip con-virt distill gloria long-clip mobile-clip prolip ranking-hinge rankclip ro-vit sdm siglip"
    of_domains = {"plip", "tbps-clip", "unipt", "cmpm-cmpc", "moment-alignment"}
    assert {*by_hand.split(), "triplet-clip", "matryoshka", "medclip", "neg-clip", "silc", "unicl", *of_domains} == set(
        NAMES
    )


def job_of(name, example_out, count=8, **options):
    options = {**NARROW.get(name, {}), **options}
    loss = build_loss(name, dims=DIMS, **options)
    return {"options": options, "batches": [example_out(loss.needs, 4, loss.outputs, B=count)]}


def assert_one_batch(ranks, one, atol=1e-5):
    """What ranks gave is what one process gave."""
    (whole,), steps = one["steps"], [rank["steps"][0] for rank in ranks]
    for step in steps:
        torch.testing.assert_close(step["loss"], whole["loss"], rtol=1e-5, atol=atol)
    for name, gradient in whole["outputs"].items():
        parts = [step["outputs"][name] for step in steps]
        together = torch.cat(parts) if gradient.ndim else sum(parts)
        assert alike(together, gradient, atol), name
    for name, gradient in whole["heads"].items():
        mean = sum(step["heads"][name] for step in steps) / len(steps)
        assert alike(mean, gradient, atol), name


def alike(gradient, wanted, atol):
    """Within rounding, which is that of the largest entries: they are what sums are made of."""
    return torch.allclose(gradient, wanted, rtol=1e-5, atol=atol * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("name", NAMES)
def test_four_processes_give_what_one_gives(name, example_out, forked_workers):
    """`test_every_loss.py` has it of two."""
    cls, job = loss_class(name), job_of(name, example_out)
    ranks = workers(4).run(steps_elsewhere, {**job, "place": class_place(cls)})
    assert_one_batch(ranks, steps_of(cls, job, 0, 1))


OTHERWISE = [
    ("clip", {"label_smoothing": 0.2}),
    ("alip", {"init_mean": 0.1}),
    ("distill", {"dynamic": 1.0, "negatives": 3}),
    ("distill", {"reduction": "sum"}),
    ("long-clip", {"components": 3}),
    ("prolip", {"masked": True, "masked_share": 0.4, "inclusion_alpha_occ": 1.0}),
    ("prolip", {"masked": True, "masked_share": 0.9, "inclusion_alpha_occ": 1.0}),
    ("ranking-hinge", {"hardest": True}),
    ("matryoshka", {"loss": "filip", "loss_options": {"token_dim": 8}}),
    ("rankclip", {"per_sample": False}),
    ("sdm", {"image_ids": True}),
    ("clip", {"same_label": True}),
    ("siglip", {"same_label": True}),
]
OTHERWISE += [(name, {"products": "bf16"}) for name in NAMES if name != "matryoshka"]
MORE = {"rankclip": 16 / 13}
"""Products of ranks beyond those of one process: a text that ranks all images needs its scores with all of them, which
one process has from the images' scores."""


@pytest.mark.parametrize(("name", "options"), OTHERWISE)
def test_options_and_small_blocks_hold_on_ranks_too(name, options, example_out, monkeypatch):
    monkeypatch.setattr(_info_nce, "ENTRIES", 30)  # two rows of 12 columns
    cls, job = loss_class(name), job_of(name, example_out, count=12, **options)
    one = steps_of(cls, job, 0, 1)
    for size in (2, 3):
        ranks = as_ranks(size, lambda rank, size=size: steps_of(cls, job, rank, size))
        # bf16 rounds what three ranks have three times as large to other digits
        assert_one_batch(ranks, one, atol=5e-3 if "products" in options else 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_arithmetic_of_a_rank_falls_as_the_number_of_ranks_rises(name, forked_workers):
    options = {"components": 3} if name == "long-clip" else NARROW.get(name, {})
    content = {"loss": name, "options": options, "count": 96, "width": WIDTH}
    one = arithmetic_of(content, 0, 1)["operations"]
    assert one >= 3 * 2 * 96 * 96 * WIDTH  # one product forward, two backward
    for size in (2, 4):
        for rank in workers(size).run(arithmetic_of, content):
            assert rank["operations"] * size == one * MORE.get(name, 1)


def test_a_loss_of_the_whole_batch_stands_beside_one_by_rows(example_out, forked_workers):
    """What an objective adds up: `filip` sees the rows of all ranks, as ever."""
    losses = {"clip": 1.0, "filip": 0.5, "siglip": 2.0}
    needs = frozenset().union(*(loss_class(name).needs for name in losses))
    content = {"losses": losses, "batch": example_out(needs, seed=2), "shared": ["logit_scale"]}
    one, ranks = parts_of(content, 0, 1), workers(2).run(parts_of, content)
    for rank in ranks:
        assert rank["values"].keys() == one["values"].keys()
        for name, value in one["values"].items():
            torch.testing.assert_close(rank["values"][name], value, rtol=1e-5, atol=1e-5)
    for name, gradient in one["gradients"].items():
        parts = [rank["gradients"][name] for rank in ranks]
        together = torch.cat(parts) if gradient.ndim else sum(parts)
        torch.testing.assert_close(together, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "matryoshka"])
def test_products_of_bf16_change_a_loss_and_its_gradient_by_their_rounding(name, example_out):
    found = []
    for products in ("fp32", "bf16"):
        job = job_of(name, example_out, count=64, products=products)
        found.append(steps_of(loss_class(name), job, 0, 1)["steps"][0])
    exact, rounded = found
    assert rounded["loss"] != exact["loss"]
    torch.testing.assert_close(rounded["loss"], exact["loss"], rtol=2e-2, atol=0)
    for output, gradient in exact["outputs"].items():
        other = rounded["outputs"][output]
        assert other.dtype == gradient.dtype
        assert (other - gradient).norm() <= 0.1 * gradient.norm(), output


@pytest.mark.parametrize("name", ["clip", "siglip", "alip", "neg-clip", "ranking-hinge", "ro-vit"])
def test_products_of_bf16_round_their_factors_alone(name, example_out):
    """The loss of features that bf16 holds exactly is the same, to the float32 of its sums."""
    out = example_out(build_loss(name).needs, B=64)
    held = {key: value.bfloat16().float() if value.ndim else torch.tensor(8.0) for key, value in out.items()}
    exact, rounded = (build_loss(name, products=products) for products in ("fp32", "bf16"))
    torch.testing.assert_close(rounded(held)["loss"], exact(held)["loss"], rtol=1e-6, atol=1e-6)
