"""Actions and retrieval on public sets of clips: our numbers beside the published ones.

    python benchmarks/video.py [--backbone SPEC] [--device cuda] [--adapters temporal-adapter lora ...]
        [--retrieval lora full ...] [--tables few-shot zero-shot full retrieval] [--seeds 1 2 3] [--set KEY=VALUE ...]

VLADAPT_DATA names the folder of the data sets. Those found there (`video/hmdb51`, `ucf101`, `kinetics400`,
`kinetics600`, `msrvtt`, `didemo`, `lsmdc`, `activitynet`, `msvd`) are encoded and learned from, best on a GPU; the
others are skipped. Few shots are those of `train1_few_shot_K.txt` if the set has such a list, otherwise drawn with each
seed. Zero-shot is the mean over the three published splits of HMDB51 and UCF101. Views as published: `--set
data.clips=4 --set data.crops=3 --set data.average_views=probabilities`. Runs are kept in runs/.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vladapt
from vladapt.core.recipes.resolve import resolve

DATA = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
VIDEOX = "VideoX README"
RECOGNITION, RETRIEVAL = "action-recognition", "retrieval"
SCORE = {RECOGNITION: "accuracy", RETRIEVAL: "text_to_image/r1"}
OF_SHOTS = (RECOGNITION,)
"""Tasks that learn from so many clips per class; the others take all."""
LIST = "train1_few_shot_{}.txt"


@dataclass(frozen=True)
class Column:
    """What one number is of.

    Args:
        set: folder in `video/`.
        title: of the column.
        shots: clips per class, 0 for zero-shot, None for all.
        folds: published splits whose mean is taken.
        reading: further options of the reader.
    """

    set: str
    title: str
    shots: int | None = None
    folds: tuple[int, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """One row of numbers in percent, in the order of the columns, and where they were read."""

    method: str
    tower: str
    numbers: tuple[float | None, ...]
    source: str


@dataclass(frozen=True)
class Compared:
    """One table."""

    title: str
    task: str
    columns: tuple[Column, ...]
    published: tuple[Published, ...]


FEW = tuple(Column(name, f"{title}, {k}", k) for name, title in (("hmdb51", "HMDB51"), ("ucf101", "UCF101"))
            for k in (2, 4, 8, 16))  # fmt: skip
TABLES = {
    "few-shot": Compared(
        "Top-1 after 2, 4, 8 and 16 clips per action",
        RECOGNITION,
        FEW,
        (Published("X-CLIP", "ViT-B/16", (53.0, 57.3, 62.8, 64.0, 76.4, 83.4, 88.3, 91.4), VIDEOX),),
    ),
    "zero-shot": Compared(
        "Zero-shot top-1",
        RECOGNITION,
        (
            Column("hmdb51", "HMDB51", 0, (1, 2, 3)),
            Column("ucf101", "UCF101", 0, (1, 2, 3)),
            Column("kinetics600", "Kinetics-600", 0),
        ),
        (Published("X-CLIP, trained on Kinetics-400", "ViT-B/16", (44.6, 72.0, 65.2), VIDEOX),),
    ),
    "full": Compared(
        "Top-1 after all clips",
        RECOGNITION,
        (Column("kinetics400", "Kinetics-400"),),
        (
            Published("X-CLIP", "ViT-B/32", (80.4,), VIDEOX),
            Published("X-CLIP, 8 frames", "ViT-B/16", (83.8,), VIDEOX),
            Published("X-CLIP, 8 frames", "ViT-L/14", (87.1,), VIDEOX),
            Published("ActionCLIP, 8 frames", "ViT-B/32", (78.36,), "ActionCLIP README"),
            Published("ActionCLIP, 8 frames", "ViT-B/16", (81.09,), "ActionCLIP README"),
            Published("ActionCLIP, 32 frames", "ViT-B/16", (82.32,), "ActionCLIP README"),
        ),
    ),
    "retrieval": Compared(
        "Text to video, R@1",
        RETRIEVAL,
        (
            Column("msrvtt", "MSR-VTT", reading={"partition": "9k"}),
            Column("didemo", "DiDeMo"),
            Column("lsmdc", "LSMDC"),
            Column("activitynet", "ActivityNet"),
            Column("msvd", "MSVD"),
        ),
        (
            Published("CLIP4Clip", "ViT-B/32", (44.5, 43.4, 21.6, 40.5, None), "hyper.ai page of 2104.08860"),
            Published("X-CLIP (multi-grained)", "–", (49.3, 47.8, 26.1, 46.2, 50.4), "2207.07285"),
        ),
    ),
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="embedded", help="backbone spec")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--adapters", nargs="+", default=["mean-pool", "temporal-adapter"], help="for recognition")
    parser.add_argument("--retrieval", nargs="+", default=["lora"], help="adapters for retrieval")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", dest="sets", action="append", default=[], help="as for vladapt fit, for each fit")
    given = parser.parse_args(words)
    for name in given.tables:
        shown(TABLES[name], methods_of(name, given), given)


def methods_of(table: str, given: argparse.Namespace) -> list[str]:
    if table == "zero-shot":
        return ["zero-shot"]
    return given.retrieval if table == "retrieval" else given.adapters


def shown(table: Compared, methods: Sequence[str], given: argparse.Namespace) -> None:
    """A table, a row as soon as it is known."""
    titles = [column.title for column in table.columns]
    print(f"\n{table.title}\n\n| | tower | {' | '.join(titles)} | where it was read |")
    print(f"| --- | --- |{' ---: |' * len(titles)} --- |")
    for row in table.published:
        cells = ["–" if number is None else f"{number:.2f}" for number in row.numbers]
        print(f"| {row.method} | {row.tower} | {' | '.join(cells)} | {row.source} |")
    there = [column for column in table.columns if (DATA / "video" / column.set).exists()]
    if not there:
        names = ", ".join(dict.fromkeys(column.set for column in table.columns))
        print(f"\n{names}: none of them is in {DATA / 'video'}, so nothing is measured.")
        return
    for method in methods:
        cells = [measured(table.task, column, method, given) if column in there else "–" for column in table.columns]
        print(f"| ours: {method} | {given.backbone} | {' | '.join(cells)} | this run |", flush=True)


def measured(task: str, column: Column, method: str, given: argparse.Namespace) -> str:
    """The score of a method on a set in percent, the mean over seeds and splits."""
    found = []
    for fold in column.folds or (None,):
        for seed in given.seeds[:1] if method == "zero-shot" else given.seeds:
            data = {"path": str(DATA / "video" / column.set), **column.reading}
            data |= {} if fold is None else {"fold": fold}
            flags = {"domain": "video", "task": task, "backbone": given.backbone, "device": given.device, "seed": seed}
            flags["adapter"] = {"name": method}
            data, shots = with_list(data, column.shots)
            flags |= {"shots": shots} if task in OF_SHOTS else {}
            done = vladapt.fit(resolve(sets=given.sets, flags={**flags, "data": data}))
            found.append(100 * done.metrics["adapted"][SCORE[task]])
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.2f}{spread}"


def with_list(data: dict[str, Any], shots: int | None) -> tuple[dict[str, Any], int | str]:
    """The published list of so many clips per class where it lies in the set, of which all are then learned from."""
    listed = LIST.format(shots)
    if shots and any(Path(data["path"]).glob(f"**/{listed}")):
        return {**data, "train_list": str(next(Path(data["path"]).glob(f"**/{listed}")))}, "all"
    return data, "all" if shots is None else shots


if __name__ == "__main__":
    main()
