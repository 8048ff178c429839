"""Person search on generated pedestrians: IRRA and TBPS-CLIP compared with fine-tuned CLIP and the common start.

    python benchmarks/person_proof.py [--seeds 1 2 3] [--warm N] [--epochs N] [--train N] [--test N] [--methods NAME ..]

Whole towers are trained on captioned people at 128 x 64 and tested on other people, from text to image over all their
pictures. Every method starts from the same towers and has the same steps, batches and rates; rows with wrong pairs have
twice the epochs, since RDE separates clean pairs between epochs.

The common start. The methods are published for a CLIP, which already matches images and captions and whose cosines may
be anything from -1 to 1. `embedded` has neither property: it is at chance, and keeps image features outside the space
that it shares with texts, so its cosines stay below 0.035 whatever is learned. A loss with a fixed scale, such as SDM,
then has a gradient 29 times smaller, and IRRA's word encoder, which is trained from scratch, dominates the step:
`benchmarks/person_gradients.py` prints the gradient norm of each part. So all rows start from towers without those
features (`Joined`), after `--warm` steps of CLIP's loss at three times the rate on other people: the first row. SDM has
the scale of the towers, 15 (published: 50, half of CLIP's own); the row `scale-50` has the published one.

Differences are paired: people are resampled with all their queries, 1,000 times, and means over the seeds are compared.
Prints the tables of docs/measurements/person.md, row by row; after Ctrl-C the finished rows are compared.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vladapt import build_adapter
from vladapt.core.backbones.embedded import ALIGNED_LOGIT_SCALE, EmbeddedBackbone
from vladapt.core.contracts.backbone import Backbone
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.metrics import paired_shares
from vladapt.core.metrics.retrieval import TEXT_TO_IMAGE
from vladapt.core.tasks.retrieval.scoring import DomainPairs, RetrievalScores, evaluate_retrieval
from vladapt.core.training.sources import PairSource
from vladapt.domains.person import Person
from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians
from vladapt.domains.person.tasks.person_search import PeoplePairs

SIZE = (128, 64)
IMAGES, CAMERAS, CAPTIONS, DRAWING, OTHERS = 3, 4, 1, 27, 28
"""Of each person: pictures, by how many cameras, sentences per picture; seeds of the people, and of other people."""
LONGEST = 40
"""Tokens of a sentence: more than any has here."""
WARM_RATE = 3.0
"""Times the rate of the rows: CLIP's loss bears it, SDM does not."""
TASK = "person-search"
WRONG, HEAD_RATE = 0.2, 5.0
NARROW = {"width": 192, "depth": 2, "logit_scale": ALIGNED_LOGIT_SCALE}
"""IRRA's encoder of words for features that are 1,664 wide; as published it would be as wide as these, and 4 deep."""
RDE = {"select_by": "similarity", "selection_dim": 256, "tau": 0.1}
"""Tokens are selected by their cosines, as the image tower has no class token; see docs/person.md on tau."""
SHOWN = {"r1": "Rank-1", "r5": "Rank-5", "r10": "Rank-10", "map": "mAP", "minp": "mINP"}


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Args:
        title: of the row.
        loss: name and weight; "" for the frozen tower.
        options: of the loss.
        wrong: share of the captions that are exchanged between people.
        epochs: times as many as of other rows.
    """

    title: str
    loss: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    wrong: float = 0.0
    epochs: int = 1


METHODS = {
    "frozen": Method("starting point"),
    "clip": Method("`clip` fine-tuned", "clip"),
    "clip-same": Method("`clip`, all of a person as positives", "clip", {"same_label": True}),
    "tbps-clip": Method("`tbps-clip`", "tbps-clip", {"simclr": 0.0}),
    "irra": Method("`irra`", "irra", NARROW),
    "no-sdm": Method("`irra` without SDM", "irra", {**NARROW, "sdm": 0.0}),
    "no-identity": Method("`irra` without the identity loss", "irra", {**NARROW, "identity": 0.0}),
    "no-words": Method("`irra` without masked words", "irra", {**NARROW, "words": 0.0}),
    "scale-50": Method("`irra`, SDM at its published scale of 50", "irra", {**NARROW, "logit_scale": 50.0}),
    "leak": Method("`irra` as released: SDM reads masked captions", "irra", {**NARROW, "leak": True}),
    "irra-wrong": Method("`irra`, 20 % wrong pairs", "irra", NARROW, WRONG, 2),
    "rde-wrong": Method("`rde`, 20 % wrong pairs", "rde", RDE, WRONG, 2),
}
FURTHER = ("clip-same", "leak", "scale-50")
"""Not of the usual table, whose fits take half an hour on two idle cores."""
COMPARED = (
    *(("irra", "clip"), ("tbps-clip", "clip"), ("clip-same", "clip"), ("clip", "frozen"), ("irra", "frozen")),
    *(("no-sdm", "irra"), ("no-identity", "irra"), ("no-words", "irra"), ("leak", "irra"), ("scale-50", "irra")),
    ("rde-wrong", "irra-wrong"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--warm", type=int, default=60, help="steps of CLIP's loss on other people before all rows")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each training; twice as many with wrong pairs")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--train", type=int, default=300, help="people to train on")
    parser.add_argument("--test", type=int, default=100, help="people to test on")
    usual = [name for name in METHODS if name not in FURTHER]
    parser.add_argument("--methods", nargs="+", default=usual, choices=list(METHODS))
    arguments = parser.parse_args()
    began, work = time.monotonic(), time.process_time()
    people = drawn(arguments.train + arguments.test, arguments.test, DRAWING)
    backbone = warmed(drawn(arguments.train, 0, OTHERS), Joined(image_size=SIZE), arguments)
    steps = arguments.epochs * (len(people.split("train").by_caption()) // arguments.batch_size)
    print(
        f"{arguments.train} people trained on, {arguments.test} searched, {IMAGES} pictures each; {steps} steps of "
        f"{arguments.batch_size} captions, rate {arguments.lr:g}, seeds {arguments.seeds}; before, {arguments.warm} "
        "steps on others\n"
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
            print(f"| {METHODS[name].title} minus {METHODS[other].title} | {_compared(scores[name], scores[other])} |")
    minutes, work = ((now - then) / 60 for now, then in ((time.monotonic(), began), (time.process_time(), work)))
    print(f"\n{minutes:.0f} minutes, {work:.0f} of CPU time; {torch.get_num_threads()} threads")


def drawn(people: int, test: int, seed: int) -> PeoplePairs:
    """People, the last of whom are searched."""
    data = drawn_pedestrians(people, IMAGES, CAMERAS, seed, SIZE, val=0, test=test, captions=CAPTIONS)
    return PeoplePairs.of(DomainPairs.of(_decoded_once(data)))


class Joined(EmbeddedBackbone):
    """`embedded` in the space of its texts alone (phi = 0), its texts cut to `LONGEST` tokens, which RDE reads all."""

    context_length = LONGEST

    def build_model(self) -> nn.Module:
        model = super().build_model()
        model.alignment.cosine, model.alignment.sine = 1.0, 0.0
        model.logit_scale.data.fill_(math.log(ALIGNED_LOGIT_SCALE))
        return model

    def build_tokenizer(self) -> Callable[[list[str]], Tensor]:
        tokenizer = super().build_tokenizer()
        return lambda texts: tokenizer(texts)[:, :LONGEST]


def warmed(people: PeoplePairs, backbone: Backbone, arguments) -> Backbone:
    """After `--warm` steps of CLIP's loss on people."""
    if not arguments.warm:
        return backbone
    rate = WARM_RATE * arguments.lr
    return trained(Method("", "clip"), people.by_caption(), backbone, 0, arguments.batch_size, arguments.warm, rate)


def _decoded_once(data):
    """The same set, whose pictures are drawn once."""
    kept: dict[str, np.ndarray] = {}

    def load(item):
        key = item.id.partition("#")[0]
        if key not in kept:
            kept[key] = data.load(item)
        return kept[key]

    return replace(data, load=load)


def scored(method: Method, people: PeoplePairs, backbone: Backbone, seed: int, arguments) -> RetrievalScores:
    """Trained on the people of the train split, tested on those of the test."""
    towers, size = backbone, arguments.batch_size
    if method.loss:
        taught = with_wrong_pairs(people.split("train").by_caption(), method.wrong, seed)
        steps = arguments.epochs * method.epochs * (len(taught) // size)
        towers = trained(method, taught, backbone, seed, size, steps, arguments.lr)
    transform = Person().transforms(backbone, False, TASK)
    return evaluate_retrieval(towers, people, split="test", transform=transform, by_label=True)


def trained(
    method: Method, taught: PeoplePairs, backbone: Backbone, seed: int, batch_size: int, steps: int, rate: float
) -> Backbone:
    """Whole towers after some steps of a method."""
    adapter = build_adapter(
        "full",
        loss=method.loss,
        loss_options={method.loss: dict(method.options)},
        epochs=-(-steps // (len(taught) // batch_size)),
        batch_size=batch_size,
        lr=rate,
        training={"steps": steps, "head_rate": HEAD_RATE},
    )
    view = Person().transforms(backbone, True, TASK)
    adapter.fit_pairs(PairSource(taught, CaptionSampler(seed=seed)), backbone, view=view, seed=seed)
    return adapter.adapted(backbone)


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
    """Difference of the mean over seeds, its interval and p, of which people count."""
    before, after = _found_first(others), _found_first(scores)
    before, after = before.repeat(len(after), 1), after.repeat_interleave(len(before), dim=0)  # each with each
    gain = paired_shares(before, after, scores[0].units[TEXT_TO_IMAGE])
    low, high = gain.interval()
    return f"{100 * gain.value:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} | {gain.p_value:.3f}"


def _found_first(scores: Sequence[RetrievalScores]) -> Tensor:
    """(S, Q) in which of the seeds each query finds its person first."""
    return torch.stack([each.rankings[TEXT_TO_IMAGE].best == 1 for each in scores])


if __name__ == "__main__":
    main()
