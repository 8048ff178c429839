"""What is kept of earlier sets by towers that are trained on one set after the other, with each method and without?

    python benchmarks/continuing.py [--seeds 1,2,3] [--methods none,ctp,...] [--epochs 30] [--kept FILE]

Three drawn sets in turn: pictures of three coloured stripes and captions that name them from top to bottom, with four
colours of its own in each set: 72 pairs to train on and 36 test pairs, all with captions of their own (guessing:
2.8 %). The same small random CLIP trains on them by `vladapt pretrain --data A --then B --then C --continual METHOD`,
with weights in between at the end (`--wise-ft 0.5`) as a further row. R@1 is the mean of both directions and over sets,
and means over seeds are given with the half width of their 95 % interval by Student's t; beside them the interval over
test pairs of the first seed, and CPU seconds per chain.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.special import stdtrit

from vladapt.core.tasks.pretraining.continuing import continue_pretraining
from vladapt.core.tasks.pretraining.options import continual_plan_of
from vladapt.core.tasks.pretraining.remembered import BEFORE, SetsRemembered, StageScores
from vladapt.core.testing.towers import drawn_clip

COLOURS = (
    {"red": (220, 30, 30), "green": (30, 170, 50), "blue": (40, 60, 220), "yellow": (230, 220, 40)},
    {"orange": (240, 140, 20), "purple": (130, 40, 170), "pink": (250, 160, 190), "brown": (120, 70, 30)},
    {"black": (10, 10, 10), "white": (245, 245, 245), "grey": (128, 128, 128), "gold": (190, 160, 60)},
)
"""Of each set."""
EACH, SIDE, NOISE = 2, 24, 25
METHODS = ("none", "replay", "ctp", "lwf", "self-distill")
WISE = 0.5
TOWERS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 1},
}
COLUMNS = {
    "average": "R@1 at the end",
    "backward_transfer": "backward transfer",
    "forgetting": "forgetting",
    "forward_transfer": "forward transfer",
}
SETTINGS = {"batch_size": 24, "lr": 5e-3, "workers": 0}
SETS = ("crop_scale=(0.95,1.0)",)
CTP_OPTIONS = ("loss.ctp.queue_size=72",)
"""No more keys than a set has pairs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--kept", type=Path, help="a file of chains that were measured before, which grows")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    seeds, known = [int(seed) for seed in asked.seeds.split(",")], read_kept(asked.kept)
    with tempfile.TemporaryDirectory() as folder:
        for seed, method in product(seeds, asked.methods.split(",")):
            if (method, seed) not in known:
                known[method, seed] = measured(Path(folder), method, seed, asked.epochs)
                keep(asked.kept, method, seed, known[method, seed])
    print(table({method: [known[method, seed] for seed in seeds] for method in asked.methods.split(",")}))


def read_kept(file: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    """(method, seed) -> what `measured` gave."""
    lines = file.read_text().splitlines() if file is not None and file.is_file() else []
    return {(each["method"], each["seed"]): each["chain"] for each in map(json.loads, lines)}


def keep(file: Path | None, method: str, seed: int, chain: dict[str, Any]) -> None:
    """Add a line."""
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps({"method": method, "seed": seed, "chain": chain}) + "\n")


def measured(folder: Path, method: str, seed: int, epochs: int) -> dict[str, Any]:
    """The summaries of one chain, by row: the method, and the same with weights in between."""
    place = folder / f"{method}-{seed}"
    paths, started = drawn_sets(folder / f"sets-{seed}", seed), time.process_time()
    plan = continual_plan_of(
        data=str(paths[0]),
        then=[str(path) for path in paths[1:]],
        continual=method,
        wise_ft=WISE,
        losses=None,
        settings={"epochs": epochs, "seed": seed, **SETTINGS},
        sets=[*SETS, *(CTP_OPTIONS if method == "ctp" else ())],
        out=str(place),
        backbone=towers(folder / f"towers-{seed}", seed),
        generic=str(generic(folder / "generic")),
        device="cpu",
    )
    done = continue_pretraining(plan)
    seconds = time.process_time() - started
    stages = [BEFORE, *(f"after-{number}" for number in range(1, len(COLOURS) + 1))]
    scores = [StageScores.load(place / f"scores-{stage}.safetensors") for stage in stages]
    alone = SetsRemembered.of_stages(done.metrics["remembered"]["sets"], stages, scores, seed)
    both = {"": alone, f" + wise-ft {WISE}": done.metrics["remembered"]}
    return {**{kind: {key: of[key] for key in COLUMNS} for kind, of in both.items()}, "seconds": seconds}


def table(rows: Mapping[str, Sequence[Mapping]]) -> str:
    """Markdown, a row per method, and one with weights in between."""
    lines = [["method", *COLUMNS.values(), "backward transfer, over test pairs", "CPU seconds"]]
    for method, seeds in rows.items():
        for kind in ("", f" + wise-ft {WISE}"):
            cells = [over_seeds([each[kind][key]["value"] for each in seeds]) for key in COLUMNS]
            low, high = seeds[0][kind]["backward_transfer"]["interval"]
            seconds = "" if kind else f"{statistics.mean(each['seconds'] for each in seeds):.0f}"
            name = "plain fine-tuning" if method == "none" else f"`{method}`"
            lines.append([f"{name}{kind}", *cells, f"{100 * low:+.1f} to {100 * high:+.1f}", seconds])
    ruler = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ruler, *lines[1:]))


def over_seeds(values: Sequence[float]) -> str:
    """In percent, the mean and half of its interval."""
    mean = f"{100 * statistics.mean(values):.1f}"
    if len(values) < 2:
        return mean
    half = stdtrit(len(values) - 1, 0.975) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {100 * half:.1f}"


def drawn_sets(folder: Path, seed: int) -> list[Path]:
    """CSV files of pairs, one per set."""
    paths = []
    for number, colours in enumerate(COLOURS):
        place, path = folder / f"set{number}", folder / f"set{number}" / f"{'-'.join(colours)}.csv"
        paths.append(path)
        if path.is_file():
            continue
        place.mkdir(parents=True)
        stripes = [names for names in product(colours, repeat=3) if names[0] != names[1] != names[2]]
        random, rows = np.random.default_rng([seed, number]), []
        for split, each in (("train", EACH), ("test", 1)):
            for row, names in enumerate(stripes * each):
                bands = np.array([colours[name] for name in names]).repeat(SIDE // 3, axis=0)  # (SIDE, 3)
                picture = bands[:, None] + random.normal(0, NOISE, (SIDE, SIDE, 3))
                name = f"{split}{row}.png"
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place / name)
                rows.append([name, " then ".join(names), split])
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["image", "caption", "split"], *rows])
    return paths


def towers(folder: Path, seed: int) -> str:
    """The spec of a small random CLIP."""
    folder.mkdir(exist_ok=True)
    (folder / "small.json").write_text(json.dumps(TOWERS))
    torch.manual_seed(seed)
    tensors = {name: value.contiguous() for name, value in drawn_clip(TOWERS).state_dict().items()}
    save_file(tensors, folder / "small.safetensors")
    return f"open_clip:{folder / 'small.json'}@{folder / 'small.safetensors'}"


def generic(folder: Path) -> Path:
    """Two pictures, so that nothing is drawn for a probe that random towers fail."""
    for name, colour in (("apple", (200, 30, 30)), ("sky", (120, 170, 240))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(folder / name / "0.png")
    return folder


if __name__ == "__main__":
    main()
