"""Person search on generated pedestrians: IRRA and TBPS-CLIP beside CLIP fine-tuned and the frozen tower.

    python benchmarks/person_proof.py [--seeds 1 2 3] [--steps N] [--train N] [--test N] [--methods NAME ...]

Whole towers of `embedded` are trained on captions of people at 128 x 64 and tested on others, by text to image over all
their pictures. Every method has the same steps, batches and rates. Differences are paired: people are drawn with all
their queries, 1,000 times, and the mean of the seeds is compared. Prints the tables of docs/person.md, row by row;
after Ctrl-C what is done is compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vladapt import build_adapter
from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.metrics.resampling import mean_draws, p_of_draws, percentiles
from vladapt.core.metrics.retrieval import TEXT_TO_IMAGE
from vladapt.core.tasks.retrieval.scoring import RetrievalScores, evaluate_retrieval, pairs_of
from vladapt.core.training.sources import PairSource
from vladapt.domains.person import Person
from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians
from vladapt.domains.person.tasks.person_search import PeoplePairs

SIZE = (128, 64)
IMAGES, CAMERAS, DRAWING = 4, 4, 27
TASK = "person-search"
WRONG = 0.2
NARROW = {"width": 192, "depth": 2, "most_words": 48}
"""IRRA's encoder of words for features that are 1,664 wide; as published it would be as wide as these, and 4 deep."""
RDE = {"select_by": "similarity", "selection_dim": 256, "trust_epochs": 1, "tau": 0.1}
"""For towers that start at chance. Pairs are judged between epochs: give more steps than one has."""
SHOWN = {"r1": "Rank-1", "r5": "Rank-5", "r10": "Rank-10", "map": "mAP", "minp": "mINP"}


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Args:
        title: of the row.
        loss: name and weight; "" for the frozen tower.
        options: of the loss.
        wrong: share of the captions that are exchanged between people.
    """

    title: str
    loss: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    wrong: float = 0.0


METHODS = {
    "frozen": Method("frozen tower"),
    "clip": Method("`clip` fine-tuned", "clip"),
    "clip-same": Method("`clip`, all of a person as positives", "clip", {"same_label": True}),
    "tbps-clip": Method("`tbps-clip`", "tbps-clip", {"simclr": 0.0}),
    "irra": Method("`irra`", "irra", NARROW),
    "no-sdm": Method("`irra` without SDM", "irra", {**NARROW, "sdm": 0.0}),
    "no-identity": Method("`irra` without the identity loss", "irra", {**NARROW, "identity": 0.0}),
    "no-words": Method("`irra` without hidden words", "irra", {**NARROW, "words": 0.0}),
    "leak": Method("`irra` as released: SDM reads hidden words", "irra", {**NARROW, "leak": True}),
    "irra-wrong": Method("`irra`, 20 % wrong pairs", "irra", NARROW, WRONG),
    "rde-wrong": Method("`rde`, 20 % wrong pairs", "rde", RDE, WRONG),
}
FURTHER = ("clip-same", "leak")
"""Not of the usual table, whose fits take half an hour on two cores."""
COMPARED = (
    *(("irra", "clip"), ("tbps-clip", "clip"), ("clip-same", "clip"), ("clip", "frozen"), ("irra", "frozen")),
    *(("no-sdm", "irra"), ("no-identity", "irra"), ("no-words", "irra"), ("leak", "irra"), ("rde-wrong", "irra-wrong")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=32, help="of each training")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--train", type=int, default=300, help="people who are trained on")
    parser.add_argument("--test", type=int, default=100, help="people who are searched")
    usual = [name for name in METHODS if name not in FURTHER]
    parser.add_argument("--methods", nargs="+", default=usual, choices=list(METHODS))
    arguments = parser.parse_args()
    data = drawn_pedestrians(
        arguments.train + arguments.test, IMAGES, CAMERAS, DRAWING, SIZE, val=0, test=arguments.test
    )
    people = PeoplePairs.of(pairs_of(_decoded_once(data)))
    backbone = load_backbone("embedded", image_size=SIZE)
    print(
        f"{arguments.train} people trained on, {arguments.test} searched, {IMAGES} pictures each; {arguments.steps} "
        f"steps of {arguments.batch_size} captions, rate {arguments.lr:g}, seeds {arguments.seeds}\n"
    )
    print(f"| | {' | '.join(SHOWN.values())} | minutes |\n| --- |{' ---: |' * (len(SHOWN) + 1)}")
    scores: dict[str, list[RetrievalScores]] = {}
    for name in arguments.methods:
        started = time.monotonic()
        seeds = arguments.seeds if METHODS[name].loss else arguments.seeds[:1]
        try:
            scores[name] = [scored(METHODS[name], people, backbone, seed, arguments) for seed in seeds]
        except KeyboardInterrupt:
            print("\nStopped; what is done is compared.")
            break
        minutes = (time.monotonic() - started) / 60 / len(seeds)
        cells = " | ".join(_cell(scores[name], key) for key in SHOWN)
        print(f"| {METHODS[name].title} | {cells} | {minutes:.1f} |", flush=True)
    print("\n| Rank-1, points | difference | 95 % interval | p |\n| --- | ---: | ---: | ---: |")
    for name, other in COMPARED:
        if name in scores and other in scores:
            print(f"| {METHODS[name].title} less {METHODS[other].title} | {_compared(scores[name], scores[other])} |")


def _decoded_once(data):
    """The same set, whose pictures are drawn once."""
    kept: dict[str, np.ndarray] = {}

    def load(item):
        key = item.id.partition("#")[0]
        if key not in kept:
            kept[key] = data.load(item)
        return kept[key]

    return replace(data, load=load)


def scored(method: Method, people: PeoplePairs, backbone, seed: int, arguments) -> RetrievalScores:
    """Trained on the people of the train split, tested on those of the test."""
    domain, towers = Person(), backbone
    if method.loss:
        taught = with_wrong_pairs(people.split("train").by_caption(), method.wrong, seed)
        epochs = -(-arguments.steps // (len(taught) // arguments.batch_size))
        adapter = build_adapter(
            "full",
            loss=method.loss,
            loss_options={method.loss: dict(method.options)},
            epochs=epochs,
            batch_size=arguments.batch_size,
            lr=arguments.lr,
            training={"steps": arguments.steps, "head_rate": 5.0},
        )
        view = domain.transforms(backbone, True, TASK)
        adapter.fit_pairs(PairSource(taught, CaptionSampler(seed=seed)), backbone, view=view, seed=seed)
        towers = adapter.adapted(backbone)
    transform = domain.transforms(backbone, False, TASK)
    return evaluate_retrieval(towers, people, split="test", transform=transform, by_label=True)


def with_wrong_pairs(people: PeoplePairs, share: float, seed: int) -> PeoplePairs:
    """Captions of a share of the rows handed round among these."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(people))[: round(share * len(people))]
    items = list(people.items)
    for row, giver in zip(rows, np.roll(rows, 1)):
        texts = people.items[giver].target.texts
        items[row] = items[row].with_(target=replace(items[row].target, texts=texts))
    return replace(people, items=tuple(items))


def _cell(scores: Sequence[RetrievalScores], key: str) -> str:
    values = [100 * each.metrics[TEXT_TO_IMAGE][key] for each in scores]
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def _compared(scores: Sequence[RetrievalScores], others: Sequence[RetrievalScores]) -> str:
    """Difference of the mean over seeds, its interval and p, by drawing people."""
    gains = _found_first(scores) - _found_first(others)  # (Q,)
    unit = scores[0].units[TEXT_TO_IMAGE].unique(return_inverse=True)[1]
    draws = mean_draws({"gain": gains}, unit)["gain"]
    low, high = percentiles(draws)
    return f"{100 * gains.mean():+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | {p_of_draws(draws):.3f}"


def _found_first(scores: Sequence[RetrievalScores]) -> Tensor:
    """(Q,) in how many of the seeds, as a share, each query finds its person first."""
    return torch.stack([(each.rankings[TEXT_TO_IMAGE].best == 1).double() for each in scores]).mean(dim=0)


if __name__ == "__main__":
    main()
