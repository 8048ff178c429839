"""Heads of the video domain on clips and on the same clips played backwards, from stored features of one backbone.

    python benchmarks/video_heads.py pairs --store FILE [NAME[:option=value,...] ...]
    python benchmarks/video_heads.py unseen --store FILE [NAME[:option=value,...] ...]
    python benchmarks/video_heads.py actions --store FILE [FOLDER OF video/weizmann_actions]

"pairs": the four pairs of motions of the sample (left and right, up and down, grows and shrinks, clockwise and
anticlockwise), drawn in larger numbers: `--clips` of each motion to learn from, 25 to test. The second clip of a pair
has the frames of the first in reverse. "within" asks for each test clip which of the two motions of its pair it shows;
a head that averages frames scores a clip and its reverse alike, so it is right exactly half of the time.

"unseen": pairs of an object and a motion that are known by text alone. Of four shapes and the eight motions, each shape
is learned with six motions and tested with the other two, with which it was never seen: "disc moving left" is one of 24
pairs to learn from, or of 8 to test, classified among these 8 and among all 32.

"actions": the people in Weizmann's films are left out one by one; 1, 2, 4 or all clips of each action by the others are
used to learn from.

Frames are encoded once, with `embedded` or another `--backbone`, and kept in FILE. The features of `embedded` are 1664
wide, those of CLIP 512, and transformers of that width are slow on a CPU. So features and texts are projected on the
first 256 principal axes of the training frames; `--axes 0` leaves them as they are.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from vladapt import FeatureSet, build_adapter, build_classifier, load_backbone
from vladapt.core.judgements.part_order import ORDERS, reversed_parts, shuffled_parts
from vladapt.domains.video.domain import Video
from vladapt.domains.video.drawn_clips import MOTIONS, PAIRS, SHAPES, draw_clip, object_of

TESTS, FIRST_TEST = 25, 100_000
SHOTS = (1, 2, 4, None)
UNSEEN_CLIPS = {"train": 12, "test": 8}
UNSEEN_TABLE = (
    "mean-pool", "temporal-adapter:use=order,tune_text=false", "temporal-adapter:use=order", "clip4clip:epochs=40",
    "action-clip:epochs=40",
)  # fmt: skip
TABLE = (
    "mean-pool", "temporal-adapter", "clip4clip:epochs=20", "action-clip:epochs=20", "clip2video:epochs=20",
    "efficient-prompt:epochs=30,prefix=4,postfix=4,lr=3e-3",
)  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pairs", "unseen", "actions"))
    parser.add_argument("names", nargs="*", help="heads; for actions the folder")
    parser.add_argument("--store", type=Path, required=True, help="safetensors file that keeps the features")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--clips", type=int, default=64, help="clips of each motion to learn from")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--axes", type=int, default=256, help="principal axes of the features; 0: as they are")
    given = parser.parse_intermixed_args()
    backbone = load_backbone(given.backbone, device="cpu")
    {"pairs": pairs, "unseen": unseen, "actions": actions}[given.what](given, backbone)


# pairs ----------------------------------------------------------------------------------------------------------------


def pairs(given, backbone) -> None:
    support, test = (clips_of(given, backbone, split) for split in ("train", "test"))
    if given.axes:
        backbone = Narrowed(
            backbone, torch.linalg.svd(support.parts.flatten(0, 1), full_matrices=False)[2][: given.axes]
        )
        support, test = (backbone.of(clips) for clips in (support, test))
    classifier = build_classifier(backbone, MOTIONS, Video().templates())
    print(
        "| head | right of 8 motions | within pairs | " + " | ".join(map(" / ".join, PAIRS)) + " | CPU seconds to fit |"
    )
    print("|---|---:|---:|" + "---:|" * (len(PAIRS) + 1))
    for told in given.names or TABLE:
        for seed in range(1, given.seeds + 1):
            adapter, started = head(told), time.process_time()
            adapter.fit(support, classifier, backbone=backbone, seed=seed)
            seconds = time.process_time() - started
            logits = adapter.logits(test)
            right = (logits.argmax(dim=1) == test.labels).double().mean()
            each = within_pairs(logits, test.labels)
            of_pairs = " | ".join(f"{float(each[test.labels // 2 == pair].mean()):.1%}" for pair in range(len(PAIRS)))
            print(f"| {told} | {right:.1%} | {each.mean():.1%} | {of_pairs} | {seconds:.0f} |", flush=True)


def within_pairs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(N,) 1 where the clip's own motion scores above its reverse, a half where they score alike."""
    own = logits.gather(1, labels[:, None])[:, 0]
    other = logits.gather(1, (labels ^ 1)[:, None])[:, 0]
    return (own > other).double() + 0.5 * (own == other).double()


def head(told: str):
    name, _, rest = told.partition(":")
    return build_adapter(name, **dict(part.split("=", 1) for part in rest.split(",") if part))


class Narrowed:
    """Towers whose features are projected on a few axes (K, D)."""

    def __init__(self, backbone, axes: torch.Tensor):
        self.backbone, self.axes = backbone, axes
        self.embed_dim, self.fingerprint = len(axes), f"{backbone.fingerprint}-{len(axes)}"

    def __getattr__(self, name: str):
        return getattr(self.backbone, name)

    def encode_text(self, *given, normalize: bool = True, **how):
        return self._narrow(self.backbone.encode_text(*given, normalize=False, **how), normalize)

    def encode_prompt(self, *given, normalize: bool = True):
        return self._narrow(self.backbone.encode_prompt(*given, normalize=False), normalize)

    def pool_text(self, *given, normalize: bool = True):
        return self._narrow(self.backbone.pool_text(*given, normalize=False), normalize)

    def of(self, clips: FeatureSet) -> FeatureSet:
        parts = clips.parts @ self.axes.T
        return FeatureSet.of_parts(parts, labels=clips.labels, class_names=clips.class_names, groups=clips.groups)

    def _narrow(self, features: torch.Tensor, normalize: bool) -> torch.Tensor:
        features = features @ self.axes.T
        return F.normalize(features, dim=-1) if normalize else features


def clips_of(given, backbone, split: str) -> FeatureSet:
    """Clips and their reverses, from the first motions' frames."""
    first, count = (0, given.clips) if split == "train" else (FIRST_TEST, TESTS)
    transform = Video().transforms(backbone, train=False)
    forward = []
    for pair in range(len(PAIRS)):

        def encoded(pair=pair) -> torch.Tensor:
            clips = (draw_clip(2 * pair, first + number) for number in range(count))
            return torch.stack([encode(backbone, transform(clip)) for clip in clips])

        forward.append(stored(given.store, f"{backbone.fingerprint}/{split}/{pair}", count, encoded))
    frames = torch.cat(forward)  # (P * count, T, D)
    labels = 2 * torch.arange(len(PAIRS)).repeat_interleave(count)
    return FeatureSet.of_parts(
        torch.cat([frames, frames.flip(1)]), labels=torch.cat([labels, labels + 1]), class_names=MOTIONS,
        groups=tuple(f"path {i}" for i in range(len(labels))) * 2, backbone=backbone.fingerprint,
    )  # fmt: skip


# unseen pairs ---------------------------------------------------------------------------------------------------------


def unseen(given, backbone) -> None:
    support, test = (of_pairs(given, backbone, split) for split in ("train", "test"))
    if given.axes:
        backbone = Narrowed(
            backbone, torch.linalg.svd(support.parts.flatten(0, 1), full_matrices=False)[2][: given.axes]
        )
        support, test = (backbone.of(clips) for clips in (support, test))
    seen, new = support.class_names, test.class_names
    classifiers = [build_classifier(backbone, names, Video().templates()) for names in (seen, new, (*new, *seen))]
    print(f"{len(support)} clips of {len(seen)} pairs to learn from, {len(test)} of {len(new)} others to test\n")
    header = ("head", f"right of {len(new)}", f"right of {len(new) + len(seen)}", "its shape", "its motion")
    print(f"| {' | '.join(header)} |\n|---|{'---:|' * (len(header) - 1)}")
    every = len(new) + len(seen)
    print(f"| chance | {1 / len(new):.1%} | {1 / every:.1%} | {1 / 4:.1%} | {1 / len(MOTIONS):.1%} |")
    for told in ("zero-shot", *(given.names or UNSEEN_TABLE)):
        rows = []
        for seed in range(1, given.seeds + 1):
            adapter = head(told)
            adapter.fit(support, classifiers[0], backbone=backbone, seed=seed)
            if told == "zero-shot":
                others = [head(told) for _ in range(2)]
                for other, classifier in zip(others, classifiers[1:]):
                    other.fit(None, classifier)
            else:
                others = [adapter.for_classes(backbone, each.class_names, each) for each in classifiers[1:]]
            among_new, among_all = (other.logits(test).argmax(dim=1) for other in others)
            words = [(*new, *seen)[place].split(" ", 2) for place in among_all.tolist()]
            wanted = [new[label].split(" ", 2) for label in test.labels.tolist()]
            parts = [sum(a[k] == b[k] for a, b in zip(words, wanted)) / len(wanted) for k in (1, 2)]
            rows.append([float((found == test.labels).double().mean()) for found in (among_new, among_all)] + parts)
        cells = torch.tensor(rows, dtype=torch.float64).mean(dim=0)
        print(f"| {told} | {' | '.join(f'{value:.1%}' for value in cells.tolist())} |", flush=True)


def of_pairs(given, backbone, split: str) -> FeatureSet:
    """Clips of pairs of shape and motion; a clip and its reverse are two motions."""
    transform, count, rows, names = Video().transforms(backbone, train=False), UNSEEN_CLIPS[split], [], []
    for place, shape in enumerate(SHAPES[:4]):
        for pair, motions in enumerate(PAIRS):
            if (place == pair) != (split == "test"):
                continue
            start = 0 if split == "train" else FIRST_TEST
            shown = (number for number in range(start, start + 1000) if object_of(pair, number)[1] == shape)
            numbers = tuple(islice(shown, count))

            def encoded(pair=pair, numbers=numbers) -> torch.Tensor:
                clips = (draw_clip(2 * pair, number) for number in numbers)
                return torch.stack([encode(backbone, transform(clip)) for clip in clips])

            forward = stored(given.store, f"{backbone.fingerprint}/unseen/{split}/{shape}/{pair}", count, encoded)
            rows += [forward, forward.flip(1)]
            names += [f"a {shape} {motion}" for motion in motions]
    labels = torch.arange(len(names)).repeat_interleave(count)
    return FeatureSet.of_parts(
        torch.cat(rows), labels=labels, class_names=names, backbone=backbone.fingerprint,
        groups=tuple(f"path {row // (2 * count)} {row % count}" for row in range(len(labels))),
    )  # fmt: skip


# actions --------------------------------------------------------------------------------------------------------------


def actions(given, backbone) -> None:
    shared = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    domain, folder = Video(), Path(given.names[0]) if given.names else shared / "video" / "weizmann_actions"
    data = domain.read(folder, "classification")
    transform = domain.transforms(backbone, train=False)

    def encoded() -> torch.Tensor:
        return torch.stack([encode(backbone, transform(data.load(item))) for item in data.items])

    clips = FeatureSet.of_parts(
        stored(given.store, f"{backbone.fingerprint}/actions", len(data.items), encoded),
        labels=torch.tensor([item.class_label() for item in data.items]), class_names=data.class_names,
        groups=tuple(item.group for item in data.items), backbone=backbone.fingerprint,
    )  # fmt: skip
    classifier = build_classifier(backbone, data.class_names, domain.templates())
    print(f"{len(clips)} clips of {len(set(clips.groups))} people, {len(data.class_names)} actions\n")
    print("| clips of each action | head | right | shuffled | reversed | order used |\n|---|---|---:|---:|---:|---:|")
    for shots in SHOTS:
        for name in ("mean-pool", "temporal-tip:match=mean", "temporal-tip", "temporal-adapter"):
            told = [
                of_person(name, clips, classifier, person, shots, given.seeds) for person in sorted(set(clips.groups))
            ]
            right, shuffled, back, used = torch.tensor([row for rows in told for row in rows]).double().mean(dim=0)
            used = f"{used:.0%}" if name == "temporal-adapter" else ""
            print(f"| {shots or 'all'} | {name} | {right:.1%} | {shuffled:.1%} | {back:.1%} | {used} |", flush=True)


def of_person(
    told: str, clips: FeatureSet, classifier, person: str, shots: int | None, seeds: int
) -> list[list[float]]:
    """One row for each seed and clip of a person, of whom nothing is learned: right in order, shuffled, reversed, and
    whether the head uses the order."""
    own = torch.tensor([group == person for group in clips.groups])
    others, test, rows = (~own).nonzero().flatten(), clips.select(own), []
    for seed in range(1, seeds + 1):
        generator = torch.Generator().manual_seed(seed)
        drawn = others[torch.randperm(len(others), generator=generator)]
        labels = clips.labels[drawn]
        kept = torch.cat([drawn[labels == label][:shots] for label in range(len(clips.class_names))])
        adapter = head(told)
        adapter.fit(clips.select(kept), classifier, seed=seed)
        seen = [test, *(shuffled_parts(test, generator) for _ in range(ORDERS)), reversed_parts(test)]
        right = torch.stack([(adapter.logits(each).argmax(dim=1) == test.labels).double() for each in seen])
        used = torch.full((len(test),), float(getattr(adapter, "ordered", False)))
        rows += torch.stack([right[0], right[1:-1].mean(dim=0), right[-1], used.double()], dim=1).tolist()
    return rows


# features -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def encode(backbone, pixels: torch.Tensor) -> torch.Tensor:
    return backbone.encode_image(pixels, normalize=False)


def stored(path: Path, key: str, count: int, make) -> torch.Tensor:
    """The first rows of a tensor of the store, which is made anew and kept where it has fewer."""
    held = load_file(path) if path.is_file() else {}
    if key not in held or len(held[key]) < count:
        held[key] = make().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(held, path)
    return held[key][:count]


if __name__ == "__main__":
    main()
