"""Heads that learned from captions, on clips that a sentence tells apart by the order of frames, or by one frame alone.

    python benchmarks/captions_to_clips.py --store FILE [--seeds 3] [NAME[:option=value,...] ...]

"order": the sample's clips of objects that move left, right, down or up, drawn in larger numbers and read by `embedded`
on 128 principal axes: 64 of each motion to learn from, 25 to test, with sentences such as "a red disc is moving left".
Of a test sentence's clip and the same clip played backwards, which scores higher? Only the order of the frames tells.
"object": does its clip score higher than clips of other objects in the same motion? Any frame tells.

"one frame": features of eight frames that are drawn, not read: the towers of `embedded` do not agree on the single
words that `mug` matches with frames. One frame, in any place, shows what two words of the sentence say (the mean of
what the text tower makes of them); the others show one ground; all have noise. Does its clip score higher than those of
other objects?

Each number is a mean over test clips and seeds. In brackets in how many seeds the head is above (+) or below (-)
`mean-pool` by more than two standard errors of the difference, clip by clip, a clip and its reverse counted together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from video_heads import FIRST_TEST, Narrowed, clips_of, head

from vladapt import load_backbone
from vladapt.core.contracts import PairParts
from vladapt.domains.video.adapters._text_tokens import token_features
from vladapt.domains.video.drawn_clips import COLOURS, MOTIONS, SHAPES, object_of

ORDER, OBJECT, ONE_FRAME = QUESTIONS = ("order", "object", "one frame")
HEADS = ("mean-pool", "clip4clip", "clip2video:epochs=30", "mug")
AXES, PAIRS_OF_MOTIONS = 128, 2
FRAMES, NOISE, COUNTS = 8, 1.0, (240, 100)


@dataclass
class Captioned:
    """Clips with one sentence each, as their frames: the pairs that a head learns from, or those that test it.

    Args:
        parts: (N, T, D). sentences: N.
        shows: of each clip the object; `moves` the motion, "" for none.
    """

    parts: Tensor
    sentences: Sequence[str]
    shows: Sequence[tuple[str, str]]
    moves: Sequence[str]

    texts: ClassVar = frozenset({"caption"})
    labelled: ClassVar = False
    columns: ClassVar = {}

    def __len__(self) -> int:
        return len(self.sentences)

    def name(self, row: int) -> str:
        return f"clip {row}"

    def text(self, kind: str, row: int, epoch: int) -> str:
        return self.sentences[row]

    def image_id(self, row: int) -> int:
        return row

    @property
    def mask(self) -> Tensor:
        return torch.ones(self.parts.shape[:2], dtype=torch.bool)

    def features(self, backbone=None) -> PairParts:
        return PairParts(self.parts, self.mask, {row: row for row in range(len(self))})

    def teach(self, adapter, backbone, seed: int) -> None:
        """Fit the head on these pairs."""
        adapter.fit_pairs(self, backbone, features=self.features, seed=seed)

    def scores(self, adapter, backbone) -> Tensor:
        """(N clips, N sentences) by the fitted head."""
        return adapter.pair_scores(backbone, self.parts, self.mask, list(self.sentences))


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="heads")
    parser.add_argument("--store", type=Path, required=True, help="safetensors file that keeps the features")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=64, help="clips of each motion to learn from")
    given = parser.parse_args()
    backbone, clips = moving(given, load_backbone("embedded", device="cpu"))
    sets = [(learned, (test,)) for learned, test in (clips, deciding(backbone))]
    heads = {name: partial(head, name) for name in given.names or HEADS}
    print_table(backbone, sets, heads, given.seeds)


def moving(given, backbone) -> tuple[Narrowed, tuple[Captioned, Captioned]]:
    """The towers on a few axes, and clips to learn from and to test: those of a motion, then the same backwards."""
    read = [clips_of(given, backbone, split) for split in ("train", "test")]
    narrowed = Narrowed(backbone, torch.linalg.svd(read[0].parts.flatten(0, 1), full_matrices=False)[2][:AXES])
    sets = []
    for clips, first in zip(read, (0, FIRST_TEST)):
        count = len(clips) // len(MOTIONS)
        rows = [row for row in range(len(clips)) if int(clips.labels[row]) < 2 * PAIRS_OF_MOTIONS]
        moves = [MOTIONS[int(clips.labels[row])] for row in rows]
        shows = [object_of(int(clips.labels[row]) // 2, first + row % count) for row in rows]
        sentences = [f"a {colour} {shape} is {motion}" for (colour, shape), motion in zip(shows, moves)]
        sets.append(Captioned(clips.parts[rows] @ narrowed.axes.T, sentences, shows, moves))
    return narrowed, (sets[0], sets[1])


def deciding(backbone) -> tuple[Captioned, Captioned]:
    """Clips of which one frame shows what is said."""
    objects = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    sentences = [f"a {colour} {shape} for a moment" for colour, shape in objects]
    tokens, words = token_features(backbone, sentences)
    of_words = [F.normalize(tokens[row][words[row]], dim=-1) for row in range(len(sentences))]
    shown = F.normalize(torch.stack([words_of[1] + words_of[2] for words_of in of_words]), dim=-1)  # colour and shape
    generator = torch.Generator().manual_seed(0)
    width = shown.shape[1]
    ground = F.normalize(torch.randn(width, generator=generator), dim=0)
    sets = []
    for count in COUNTS:
        chosen = torch.randint(len(objects), (count,), generator=generator)
        parts = ground + NOISE / sqrt(width) * torch.randn(count, FRAMES, width, generator=generator)
        place = torch.randint(FRAMES, (count,), generator=generator)
        parts[torch.arange(count), place] += shown[chosen] - ground
        shows = [objects[row] for row in chosen.tolist()]
        sets.append(Captioned(parts, [sentences[row] for row in chosen.tolist()], shows, [""] * count))
    return sets[0], sets[1]


def print_table(
    backbone,
    sets: Sequence[tuple[Captioned, Sequence[Captioned]]],
    heads: Mapping[str, Callable[[], Any]],
    seeds: int,
) -> None:
    """A row per head, the first of which the others are compared with; see above.

    Args:
        sets: clips to learn from, each with those that test what was learned.
    """
    print(f"| head | {' | '.join(QUESTIONS)} | CPU seconds to fit |\n|---|{'---:|' * (len(QUESTIONS) + 1)}")
    base: dict[tuple[str, int], Tensor] = {}
    for name, made in heads.items():
        cells, seconds = [], 0.0
        answers: dict[tuple[str, int], Tensor] = {}
        for learned, tests in sets:
            for seed in range(1, seeds + 1):
                adapter, started = made(), time.process_time()
                learned.teach(adapter, backbone, seed)
                seconds += time.process_time() - started
                for test in tests:
                    right_of = answered(adapter, backbone, test)
                    answers |= {(question, seed): right for question, right in right_of.items()}
        base = base or answers
        for question in QUESTIONS:
            rows = [answers[question, seed] for seed in range(1, seeds + 1)]
            signs = [beyond(rows[seed - 1] - base[question, seed]) for seed in range(1, seeds + 1)]
            mark = "".join(f" ({sign}{signs.count(sign)})" for sign in "+-" if sign in signs)
            cells.append(f"{torch.stack(rows).mean():.1%}{mark}")
        print(f"| `{name}` | {' | '.join(cells)} | {seconds / seeds:.0f} |", flush=True)


@torch.no_grad()
def answered(adapter, backbone, test: Captioned) -> dict[str, Tensor]:
    """Question -> (N,) how often each clip is right; a half where two score alike. Clips of `order` come with their
    reverses, as the second half: their answers are those of both, (N / 2,)."""
    scores = test.scores(adapter, backbone)
    count = len(test)
    own = scores.diagonal()
    others = [
        [row for row in range(count) if test.moves[row] == test.moves[k] and test.shows[row] != test.shows[k]]
        for k in range(count)
    ]
    of_objects = torch.stack([higher(own[k], scores[others[k], k]).mean() for k in range(count)])
    if not any(test.moves):
        return {ONE_FRAME: of_objects}
    half = count // 2
    reverse = (torch.arange(count) + half) % count
    of_order = higher(own, scores[reverse, torch.arange(count)])
    return {name: (rows[:half] + rows[half:]) / 2 for name, rows in ((ORDER, of_order), (OBJECT, of_objects))}


def higher(own: Tensor, other: Tensor) -> Tensor:
    """1 where a score is above another, a half where they are the same but for rounding."""
    same = torch.isclose(own, other, rtol=1e-4, atol=1e-6)
    return torch.where(same, 0.5, (own > other).double())


def beyond(differences: Tensor) -> str:
    """ "+" or "-" where the mean of these differences is beyond two standard errors, else ""."""
    mean, error = float(differences.mean()), float(differences.std() / sqrt(len(differences)))
    return "" if abs(mean) <= 2 * error else "+" if mean > 0 else "-"


if __name__ == "__main__":
    main()
