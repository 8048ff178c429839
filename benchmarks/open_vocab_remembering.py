"""What a detector that learns new names keeps of its old ones, plainly fine-tuned and with --remember.

    python benchmarks/open_vocab_remembering.py [shapes] [coco_val128] [--seeds 1,2,3] [--recipe open-vocab/retinanet]

A detector is trained on the old names alone, once per set. It then learns the new ones, once per seed, from boxes of
these alone: what is old stands in the same images and nobody marked it. All scores are of the same test images, which
have boxes of both, with both asked for. Runs are kept in runs/. VLADAPT_DATA names the folder of the data sets.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vladapt.core.engine.fit import fit
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import load_domain
from vladapt.core.runs.folder import Run
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.config_training.base import load_model
from vladapt.core.tasks.methods import read_data, split_samples
from vladapt.domains.open_vocab.data.remembered import with_remembered
from vladapt.domains.open_vocab.inference.detection import evaluate_detection
from vladapt.domains.open_vocab.shapes import HELD_OUT, NAMES

DATA = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
HEADER = ("set", "seed", "old names before", "fine-tuned", "with `--remember`", "kept", "new names, fine-tuned")
HEADER = (*HEADER, "with `--remember`", "weights")
FLAGS = {"domain": "open-vocab", "task": "detection", "workers": 0}


@dataclass(frozen=True)
class Case:
    """A set with its old and its new names.

    Args:
        path: of the data.
        epochs: of the first training, and of each after it.
    """

    path: str
    old: Sequence[str]
    new: Sequence[str]
    epochs: tuple[int, int]


CASES = {
    "shapes": Case("sample", [name for name in NAMES if name not in HELD_OUT], HELD_OUT, (8, 2)),
    "coco_val128": Case(
        str(DATA / "detection_seg/coco_val128"), ["person"], ["chair", "cup", "dining table"], (20, 10)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"sets: {', '.join(CASES)}; all by default")
    parser.add_argument("--seeds", default="1,2,3", help="of the second training, comma-separated")
    parser.add_argument("--recipe", default="open-vocab/retinanet")
    parser.add_argument("--start", help="a run on the old names of the set, in place of a new one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(_line(HEADER))
    print(_line(("---", "---:", *("---:",) * (len(HEADER) - 2))), flush=True)
    for name in arguments.names or CASES:
        case = CASES[name]
        start = arguments.start or _fitted(arguments.recipe, case, case.old, 0).run
        for seed in map(int, arguments.seeds.split(",")):
            print(_row(name, case, arguments.recipe, str(start), seed), flush=True)


def _row(name: str, case: Case, recipe: str, start: str, seed: int) -> str:
    plain = _fitted(recipe, case, case.new, 1, seed=seed, start=start)
    kept = _fitted(recipe, case, case.new, 1, seed=seed, start=start, remember=",".join(case.old))
    old, new = _of_both(case, plain.run)
    told = kept.metrics["adapted"]
    before, after = told["remembered_AP_before"], told["remembered_AP"]
    weights = next(note for note in kept.notes if note.startswith("Weights are")).split()[2]
    numbers = (f"{before:.3f}", f"{old:.3f}", f"{after:.3f}", f"{after / before:.1%}")
    return _line((name, seed, *numbers, f"{new:.3f}", f"{told['new_AP']:.3f}", weights))


def _fitted(recipe: str, case: Case, classes: Sequence[str], stage: int, **flags):
    flags = {
        **FLAGS,
        "data.path": case.path,
        "classes": ",".join(classes),
        "adapter.epochs": case.epochs[stage],
        **flags,
    }
    return fit(resolve(recipe=recipe, flags=flags))


def _of_both(case: Case, run: Path) -> tuple[float, float]:
    """AP of the old and of the new names, of a detector that was trained on the new ones and is asked for both."""
    recipe = resolve(flags={**FLAGS, "data.path": case.path})
    quiet = Reporter(quiet=True)
    data = split_samples(read_data(recipe, load_domain("open-vocab"), "detection"), quiet, 0, recipe.split_seed)
    model = load_model(Run.open(run), torch.device("cpu"))
    model.cfg.vladapt.remember = list(case.old)
    told = evaluate_detection(model, with_remembered(data, case.new, case.old), lambda done, total: None).metrics
    return told["remembered_AP"], told["new_AP"]


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
