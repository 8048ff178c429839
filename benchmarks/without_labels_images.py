"""Methods without labels that look at pixels or train towers, compared with zero-shot on small public sets of images.

    python benchmarks/without_labels_images.py                        # all sets and methods, and the tables
    python benchmarks/without_labels_images.py grocery --methods zero,mta
    python benchmarks/without_labels_images.py --backbone open_clip:ViT-B-32/openai --published --device cuda

Each number is from `vladapt fit --shots 0` on a set: nothing is labelled, and the test images are scored. The options
in `FEWER` keep the measurement short on a CPU; --published omits them. If a method refuses a backbone, or needs what a
set lacks, the reason is below the table. Results are kept in --out, by backbone, set and method, and not measured
again. The public data are in the folder that VLADAPT_DATA names; a set that is missing there is skipped.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from methods_on_images import DATA
from methods_on_images import SETS as IMAGE_SETS

from vladapt.core.engine.fit import fit
from vladapt.core.errors import VladaptError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runtime.progress import Reporter

SETS = ("grocery", "clothing", "whu_rs19", "wbc", "pneumoniamnist")
FEWER: dict[str, dict[str, Any]] = {
    "zero": {"n_views": 16},
    "mta": {"n_views": 16},
    "tpt": {"n_views": 16},
    "lafter": {"epochs": 2},
    "fpl": {"epochs": 15},
    "ifpl": {"epochs": 15, "rounds": 2},
    "grip": {"epochs": 15, "rounds": 2},
    "dpa": {"epochs": 2},
    "gta-clip": {"epochs": 2},
    "s3a": {"epochs": 2},
    "reclip": {"epochs": 2},
}
"""Method -> options below the published number."""
ZERO_SHOT = "zero-shot"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"sets, of {', '.join(SETS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    parser.add_argument("--methods", default=",".join(FEWER), help=f"of {', '.join(FEWER)}")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--published", action="store_true", help="epochs, rounds and views as published")
    parser.add_argument("--out", type=Path, default=Path("runs/without_labels_images"), help="folder of the results")
    given = parser.parse_args()
    methods = given.methods.split(",")
    for unknown in [*(set(given.names) - set(SETS)), *(set(methods) - set(FEWER))]:
        parser.error(f"there is no {unknown}; sets are {', '.join(SETS)}, methods {', '.join(FEWER)}")
    names = [name for name in given.names or SETS if (given.data / IMAGE_SETS[name][1]).exists()]
    if not names:
        raise SystemExit(f"{given.data} has none of these sets; name the folder of the public data in VLADAPT_DATA")
    found = {method: {name: measured(name, method, given) for name in names} for method in methods}
    print("\n".join(table(found, given.published)))


def measured(name: str, method: str, given: argparse.Namespace) -> dict[str, Any]:
    """What `fit` says of a method on a set, or why it says nothing; made or read."""
    backbone = re.sub(r"[^\w.-]+", "-", given.backbone)
    folder = given.out / ("published" if given.published else "fewer") / backbone / name.replace(" ", "_") / method
    file = folder / "measured.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    domain, place = IMAGE_SETS[name]
    options = {} if given.published else FEWER[method]
    flags = {"domain": domain, "data.path": str(given.data / place), "backbone": given.backbone, "shots": 0}
    flags |= {"device": given.device, "out": str(folder / "runs"), "adapter": {"name": method, **options}}
    started, cpu = time.perf_counter(), time.process_time()
    try:
        result = fit(resolve(flags=flags), reporter=Reporter(quiet=True))
        of = result.metrics
        metric, turned_down = of["deciding"], of.get("turned_down")
        row = {
            "metric": metric,
            "zero_shot": of["zero_shot"][metric],
            "adapted": (turned_down or of["adapted"])[metric],
            "interval": (turned_down or of["baselines"]["zero_shot"])["interval"],
            "kept": turned_down is None,
            "notes": result.notes,
        }
    except VladaptError as error:
        row = {"refused": str(error)}
    row |= {"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(row, indent=1), encoding="utf-8")
    print(f"{name}, {method}: {row['cpu_seconds']:.0f} s of CPU time", file=sys.stderr, flush=True)
    return row


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]], published: bool) -> Iterator[str]:
    """Markdown: per method and set the gain over zero-shot in points with its interval; then what was refused."""
    names = list(next(iter(found.values())))
    yield f"| method | {' | '.join(names)} | seconds per fit |"
    yield f"| --- |{' ---: |' * (len(names) + 1)}"
    known = {name: [of[name] for of in found.values() if "refused" not in of[name]] for name in names}
    cells = [f"{100 * rows[0]['zero_shot']:.1f}" if rows else "–" for rows in known.values()]
    yield f"| {ZERO_SHOT}, % | {' | '.join(cells)} | |"
    refused: dict[str, list[str]] = {}
    for method, of in found.items():
        done = [row for row in of.values() if "refused" not in row]
        for name, row in of.items():
            if "refused" in row:
                refused.setdefault(f"`{method}`: {row['refused']}", []).append(name)
        seconds = f"{sum(row['cpu_seconds'] for row in done) / len(done):.0f}" if done else "–"
        options = "" if published else "".join(f" {key} {value}" for key, value in FEWER[method].items())
        yield f"| `{method}`{options} | {' | '.join(_gain(of[name]) for name in names)} | {seconds} |"
    yield "\n† The judge without labels keeps zero-shot instead.\n"
    for reason, where in refused.items():
        yield f"* {reason} ({', '.join(where)})"


def _gain(row: Mapping[str, Any]) -> str:
    if "refused" in row:
        return "refused"
    low, high = (f"{100 * end:+.1f}" for end in row["interval"])
    mark = "" if row["kept"] else " †"
    return f"{100 * (row['adapted'] - row['zero_shot']):+.1f} ({low} to {high}){mark}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
