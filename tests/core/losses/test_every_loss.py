"""What holds for every objective, found by its file name: the checks of `vladapt.testing`, and its example."""

from __future__ import annotations

import doctest

import pytest
import torch

from vladapt.core.errors import ConfigError
from vladapt.core.losses.ctp import TOPOLOGY
from vladapt.core.registry import build_loss, catalogue, loss_class
from vladapt.core.testing.losses import loss_checks

pytestmark = pytest.mark.usefixtures("forked_workers")
NAMES = sorted(name for name, entry in catalogue.losses().items() if entry.entry_point is None)
OF_QUERIES = {"width": 8, "heads": 2, "layers": 1, "hidden": 8, "dropout": 0.0}
OF_QUERIES |= {"findings": dict.fromkeys("abcde", "x"), "positions": dict.fromkeys("fgh", "y")}
OF_ENTITIES = {"width": 8, "heads": 2, "hidden": 8, "layers": 2, "dropout": 0.0, "patch_layer": 1}
OF_ENTITIES |= {"entity_width": 8, "entity_heads": 2, "entity_hidden": 8, "graph_width": 4, "graph_heads": 2}
OF_ENTITIES |= {"graph_dropout": 0.0, "decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2}
OF_ENTITIES |= {"entities": {name: ["x"] for name in "abcde"}, "triples": {"a": ["b", "c"], "c": ["d"]}}
NARROW = {
    "arl": OF_ENTITIES,
    "medklip": OF_QUERIES,
    "medslip": OF_QUERIES,
    "codebook": {"count": 12, "layers": 1, "heads": 2},
    "dino-v2": {"out_dim": 40, "hidden_dim": 16, "bottleneck_dim": 8},
    "r2d2": {"layers": 1, "heads": 2},
    "rde": {"selection_dim": 6},
    "silc": {"out_dim": 40, "hidden_dim": 16, "bottleneck_dim": 8},
    "irra": {"depth": 1, "width": 8},
    "masked-words": {"depth": 1, "width": 8},
    "slip": {"mlp_dim": 16, "emb_dim": 8},
    "tbps-clip": {"mlp_dim": 8, "emb_dim": 8},
}
"""Heads whose published widths would take most of the time of these tests."""
TERMS = {
    "arl": "align mlm mim itm",
    "ctp": "contrastive momentum_contrast cross same words soft_words",
    "declip": "clip nn_text simsiam masking_language",
    "dino-v2": "dino ibot koleo",
    "distilbert": "ce mlm mse cos",
    "distill": "feature similarity interactive dynamic",
    "gloria": "local_weight global_weight",
    "irra": "sdm identity words",
    "mobile-clip": "contrastive distill",
    "plip": "identity attributes colours",
    "r2d2": "gcpr fgr",
    "self-distill": "image text",
    "tbps-clip": "nitc ritc citc simclr",
    "unipt": "contrast patches words",
}
"""The options that weigh the terms of a loss."""


def several_labels(outputs, seed):
    return {**outputs, "labels": (torch.rand(8, 5, generator=torch.Generator().manual_seed(seed)) < 0.5).float()}


def of_actions(outputs, seed):
    """Which verbs and nouns a text has."""
    generator = torch.Generator().manual_seed(seed)
    told = {name for name in outputs if name.startswith(("verbs", "nouns"))}
    return {**outputs, **{name: (torch.rand(8, 4, generator=generator) < 0.4).float() for name in sorted(told)}}


def of_places(outputs, seed):
    """Which findings are at which positions, where that is known."""
    related = torch.randint(-1, 2, (8, 5, 3), generator=torch.Generator().manual_seed(seed)).float()
    return {**outputs, "relations": related.flatten(1)}


def of_mentions(outputs, seed):
    """Two entities in the words of each text, one in some."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 5, (8, 2), generator=generator)
    ids[torch.randperm(8, generator=generator)[:3], 1] = -100
    words = torch.rand(8, 2, 7, generator=generator) < 0.3
    return {**outputs, "entity_ids": ids, "entity_words": words & (ids >= 0)[..., None]}


EXAMPLES = {
    "arl": of_mentions,
    "medklip": of_places,
    "medslip": of_places,
    "binary-cross-entropy": several_labels,
    "egonce": of_actions,
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{name}-{rule}")
        for name in NAMES
        for rule, check in loss_checks(
            loss_class(name), options=NARROW.get(name), example=EXAMPLES.get(name), processes=True
        )
    ],
)
def test_the_contract(check):
    check()


@pytest.mark.parametrize("name", TERMS)
def test_it_refuses_to_minimise_nothing(name):
    with pytest.raises(ConfigError, match=f"loss '{name}': all weights are 0; give one above 0"):
        build_loss(name, **dict.fromkeys(TERMS[name].split(), 0))


def test_the_first_set_of_ctp_has_no_terms_of_topology():
    first = dict.fromkeys({*TERMS["ctp"].split()} - {*TOPOLOGY}, 0)
    with pytest.raises(ConfigError):
        build_loss("ctp", first=True, **first)


def test_all_are_here():
    assert {"clip", "siglip", "silc", "cross-entropy"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_its_example_runs(name):
    """Of the class's docstring: three or four lines that a reader can copy, and what they print."""
    (example,) = doctest.DocTestFinder(recurse=False).find(loss_class(name), globs={})
    assert 3 <= len(example.examples) <= 5 and example.examples[-1].want
    told: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=told.append).failed == 0, "".join(told)
