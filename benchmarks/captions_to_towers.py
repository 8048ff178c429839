"""Heads that learn from captions together with both towers, `mug-stan` among them: the questions of
`captions_to_clips.py`, of pixels.

    python benchmarks/captions_to_towers.py --store FILE [--seeds 3] [NAME ...]

The towers are a CLIP of three blocks, 32 wide, of random weights, which first learns single frames, as a CLIP did: the
frames of 384 other clips, a sentence each, by the contrastive loss at CLIP's logit scale of 100. A sentence says what
is shown and where, or which way it goes, of which one frame shows nothing. All rows start from these towers, and train
them with their head on clips of four frames, 32 of each of four motions ("order", "object") and 48 of which one frame
shows an object and the others show noise ("one frame").

`mug-stan` is `video/mug-stan` at a rate for small towers and with two layers: both towers at 1e-3, STAN's branch at ten
times that. The other rows train towers and head at 1e-3. All take as many steps as Mug-STAN's ten epochs of MSR-VTT's
9,000 clips, 704; tested are clips on which no setting was tried.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captions_to_clips import PAIRS_OF_MOTIONS, Captioned, print_table
from torch import Tensor

from vladapt import build_adapter, load_adapter, load_backbone
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.video.drawn_clips import MOTIONS, draw_clip, object_of
from vladapt.domains.video.transforms import EachFrame

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 48, "layers": 3, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
FRAMES, SCALE = 4, 100.0
LEARNED, TESTED, FIRST_TESTED = (32, 48), (25, 50), 910_000
"""Clips of each motion, and clips of which one frame shows an object; number of the first that is tested."""
SINGLE, FIRST_SINGLE = 96, 200_000
"""Clips of each motion of which single frames are learned, and the number of the first."""
MOMENT = "a {} {} for a moment"
ACROSS = ("on the right", "in the middle", "in the middle", "on the left")
ALONG = ("at the top", "in the middle", "in the middle", "at the bottom")
PLACES = dict(zip(MOTIONS, (ACROSS, ACROSS[::-1], ALONG, ALONG[::-1])))
"""Motion -> where the object is in each frame."""
RATE, EPOCHS, BATCH = 1e-3, 352, 88


@dataclass
class Shown(Captioned):
    """Clips as pixels, `parts` (N, T, 3, H, W), for heads that train the towers."""

    def image(self, row: int) -> Tensor:
        return self.parts[row]

    def teach(self, adapter, backbone, seed: int) -> None:
        adapter.fit_pairs(self, backbone, view=lambda pixels, seed=None: pixels, seed=seed)

    def scores(self, adapter, backbone) -> Tensor:
        towers = adapter.adapted(backbone).base
        return adapter.pair_scores(towers, towers.encode_parts(self.parts), self.mask, list(self.sentences))


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="rows; by default all")
    parser.add_argument("--store", type=Path, required=True, help="safetensors file that keeps the towers")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    backbone = that_know_frames(small_towers(), given.store)
    learned, tests = together(clips_of(backbone, 0, *LEARNED)), clips_of(backbone, FIRST_TESTED, *TESTED)
    heads = rows()
    print_table(backbone, [(learned, tests)], {name: heads[name] for name in given.names or heads}, given.seeds)


def rows() -> dict[str, Any]:
    """Name -> what makes its head."""
    training = {"epochs": EPOCHS, "batch_size": BATCH, "train_towers": True, "lr": RATE, "coef_lr": 1.0}
    released = resolve(recipe="video/mug-stan").adapter
    branch = {**released["tower_options"], "depth": 2, "crop_scale": None, "warmup": 0.1}
    return {
        "mean-pool": partial(build_adapter, "mean-pool", tune_text=False, **training),
        "mug-stan": partial(build_adapter, **{**released, **training, "tower_options": branch}),
        "clip4clip": partial(build_adapter, "clip4clip", **training),
        "clip2video": partial(build_adapter, "clip2video", **training),
        "mug": partial(build_adapter, "mug", tune_text=False, **training),
    }


# towers ---------------------------------------------------------------------------------------------------------------


def small_towers():
    """Of random weights, with CLIP's logit scale."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.json"
        path.write_text(json.dumps(SMALL))
        backbone = load_backbone(f"open_clip:{path}@random:0", device="cpu")
    backbone.model.logit_scale.data.fill_(np.log(SCALE))
    return backbone


def that_know_frames(backbone, store: Path):
    """Towers that have learned single frames with sentences; kept in a file."""
    if not store.is_file():
        adapter = build_adapter("full", loss="clip", epochs=16, batch_size=64, lr=2e-3, clip_grad=1.0)
        single_frames(backbone).teach(adapter, backbone, seed=1)
        store.parent.mkdir(parents=True, exist_ok=True)
        adapter.save(store)
    return load_adapter(store, backbone).adapted(backbone)


# clips ----------------------------------------------------------------------------------------------------------------


def clips_of(backbone, first: int, each: int, moments: int) -> tuple[Shown, Shown]:
    """Clips of four motions, as many of each, those of two and then the same backwards; and clips of one frame."""
    view, pairs = EachFrame(backbone.preprocess(False)), range(PAIRS_OF_MOTIONS)
    numbered = [(pair, number) for pair in pairs for number in range(first, first + each)]
    forward = [view(draw_clip(2 * pair, number, FRAMES)) for pair, number in numbered]
    shows = [object_of(pair, number) for pair, number in numbered]
    moves = [MOTIONS[2 * pair + back] for back in (0, 1) for pair, _ in numbered]
    sentences = [f"a {colour} {shape} is {motion}" for (colour, shape), motion in zip([*shows, *shows], moves)]
    both = torch.stack([*forward, *(clip.flip(0) for clip in forward)])
    moved = Shown(both, sentences, [*shows, *shows], moves)

    shown = [(number % PAIRS_OF_MOTIONS, first + each + number) for number in range(moments)]
    clips = torch.stack([view(for_a_moment(*of)) for of in shown])
    seen = [object_of(*of) for of in shown]
    return moved, Shown(clips, [MOMENT.format(*of) for of in seen], seen, [""] * moments)


def single_frames(backbone) -> Shown:
    """Frames of other clips, with sentences of each kind in turn."""
    moved, _ = clips_of(backbone, FIRST_SINGLE, SINGLE, 1)
    sentences = []
    for row, (shown, motion) in enumerate(zip(moved.shows, moved.moves)):
        for frame in range(FRAMES):
            place = "a {} {} {}".format(*shown, PLACES[motion][frame])
            sentences.append((moved.sentences[row], place, MOMENT.format(*shown))[(row + frame) % 3])
    return Shown(moved.parts.flatten(0, 1), sentences, [()] * len(sentences), [""] * len(sentences))


def for_a_moment(pair: int, number: int) -> np.ndarray:
    """(T, 64, 64, 3): a frame of a clip, in any place among noise."""
    rng = np.random.default_rng([pair, number])
    frames = rng.integers(0, 256, (FRAMES, 64, 64, 3)).astype(np.uint8)
    place = rng.integers(FRAMES)
    frames[place] = draw_clip(2 * pair, number, FRAMES)[place]
    return frames


def together(clips: Sequence[Shown]) -> Shown:
    """All of them, to learn from."""
    columns = ([row for each in clips for row in getattr(each, name)] for name in ("sentences", "shows", "moves"))
    return Shown(torch.cat([each.parts for each in clips]), *columns)


if __name__ == "__main__":
    main()
