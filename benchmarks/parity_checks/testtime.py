"""TDA, DMN, MTA and ZERO."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from vladapt import FeatureSet, build_adapter
from vladapt.adapters.testtime._memory import EMPTY, entropy_of

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("tda", "tda")
def tda(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Each setting on the test rows in the fixture's order, or on the views of the first of them."""
    order = ref["order"]
    for _, name in ref.keys(r"(\w+)_logits"):
        views = ref["views"] if name == "views" else None
        rows = order if views is None else order[: len(views)]
        images = FeatureSet(f.test_set.features[rows] if views is None else views[:, 0], views=views)
        adapter = build_adapter("tda", shuffle=False, **_tda_options(ref, name))
        adapter.fit(None, f.text, unlabeled=images)
        logits = adapter.logits(images)
        yield ref.check(logits, f"{name}_logits", f"{name}, logits")
        right = 100 * (logits.argmax(dim=1) == f.test_set.labels[rows]).double().mean()
        yield ref.check(right[None], f"{name}_acc", f"{name}, accuracy")
        if views is None:
            entropy = entropy_of(f.text.logits(images.unit).log_softmax(dim=1)) / torch.tensor(len(f.text)).log2()
            yield ref.check(entropy, f"{name}_prop_entropy", f"{name}, entropy")


def _tda_options(ref: Reference, name: str) -> dict:
    """The options of one setting: its own numbers, or those of the settings that its words name."""
    given = ref.setting(name)
    if isinstance(given, str):
        of = {kind: ref.setting(setting)[kind] for kind, setting in _NAMED[name].items()}
    else:
        of = given
    options = {"slots": 0, "negative_slots": 0}
    if "pos" in of:
        options |= {"slots": of["pos"]["shot_capacity"], "alpha": of["pos"]["alpha"], "beta": of["pos"]["beta"]}
    if "neg" in of:
        of = of["neg"]
        bounds = {
            kind: (of[f"{kind}_threshold"]["lower"], of[f"{kind}_threshold"]["upper"]) for kind in ("entropy", "mask")
        }
        options |= {"negative_slots": of["shot_capacity"], "negative_alpha": of["alpha"], "negative_beta": of["beta"]}
        options |= {f"{kind}_bounds": pair for kind, pair in bounds.items()}
    return options


_NAMED = {"pos_only": {"pos": "default"}, "neg_only": {"neg": "alt"}, "views": {"pos": "default", "neg": "alt"}}
"""What the fixture says in words of its further settings."""


@compares("mta", "mta_zero")
def mta(ref: Reference, f: Fixtures) -> Iterator[Check]:
    given = ref.setting("mta")
    text = replace(f.text, logit_scale=given["logit_scale"])
    for _, name in ref.keys(r"mta_(\w+)_logits"):
        adapter = build_adapter("mta", iterations=given["max_iter"], **given[name])
        adapter.fit(None, text)
        yield ref.check(
            torch.stack([adapter.scored(bag) for bag in ref["views"]]), f"mta_{name}_logits", f"{name}, logits"
        )
        inlierness = torch.stack([adapter.mode(bag)[1] for bag in ref["views"]])
        yield ref.check(inlierness, f"mta_{name}_inlierness", f"{name}, inlierness")


@compares("zero", "mta_zero")
def zero(ref: Reference, f: Fixtures) -> Iterator[Check]:
    given = ref.setting("zero")
    text = replace(f.text, logit_scale=1 / given["temperature"])
    for number, share in enumerate(given["gammas"], start=1):
        adapter = build_adapter("zero", selection=share)
        adapter.fit(None, text)
        votes = torch.stack([adapter.scored(bag) for bag in ref["views"]])
        yield ref.check(votes, f"zero_g{number}_votes", f"gamma {share}, votes")
        yield ref.check(votes.argmax(dim=1), f"zero_g{number}_pred", f"gamma {share}, predictions")


@compares("dmn", "dmn")
def dmn(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The two memories without shots, with shots, and with the fixture's residuals."""
    text = replace(f.text, logit_scale=ref.setting("logit_scale"))
    support = f.support(ref)
    few = support.select(_first_of_each_class(support.labels, ref.setting("shots")))
    repeats = ref["views"][:, 1:].repeat(1, ref.setting("n_views"), 1)[:, : ref.setting("n_views") - 1]
    bags = torch.cat([ref["views"][:, :1], repeats], dim=1)  # (N, V, D)
    for _, name in ref.keys(r"(\w+)_dynamic"):
        options = {ours: ref.setting(theirs) for ours, theirs in _DMN_OPTIONS.items()}
        adapter = build_adapter("dmn", **options, views=0, train=False)
        images = FeatureSet(bags[:, 0], views=bags)
        adapter.fit(None if name == "zs" else few, text, unlabeled=images)
        if name == "fs_bias":
            for residual, theirs in _RESIDUALS.items():
                setattr(adapter, f"{residual}_residual", ref[f"{name}_{theirs}"])
        adapter._start(few)
        text_p, dynamic, static = torch.stack([adapter._answers(bag) for bag in bags], dim=1)
        yield ref.check(text_p, f"{name}_text", f"{name}, text")
        yield ref.check(dynamic, f"{name}_dynamic", f"{name}, dynamic memory")
        if name != "zs":
            yield ref.check(static, f"{name}_static", f"{name}, static memory")
        filled = adapter.entropy < EMPTY
        yield ref.check(filled.sum(dim=1), f"{name}_count", f"{name}, images kept")
        wanted = ref[f"{name}_entropy"]
        theirs = wanted.masked_fill(torch.arange(wanted.shape[1]) >= ref[f"{name}_count"].reshape(-1, 1), EMPTY)
        ours = torch.zeros_like(wanted).scatter(1, theirs.argsort(dim=1), adapter.entropy.masked_fill(~filled, 0))
        yield ref.check(ours, f"{name}_entropy", f"{name}, entropies")


def _first_of_each_class(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the first so many rows of each class."""
    return torch.cat([(labels == label).nonzero().flatten()[:count] for label in labels.unique()])


_DMN_OPTIONS = {"slots": "memory_size", "beta": "beta", "selection": "selection_p"}
"""Our options -> the fixture's hyper-parameters."""
_RESIDUALS = {
    "query": "global_bias",
    "key": "global_bias_key",
    "value": "global_bias_value",
    "output": "global_ffn_bias",
    "words": "text_bias",
}
"""Our names of the residuals -> the fixture's."""


GROUPS = (tda, dmn, mta, zero)
