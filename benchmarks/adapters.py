"""Every adapter on one small set: what it needs, costs and gains. Makes the table of docs/measurements/adapters.md.

    python benchmarks/adapters.py measure NAME ...     # fits these; their rows in docs/adapters.csv are replaced
    python benchmarks/adapters.py measure              # fits all of them
    python benchmarks/adapters.py page                 # writes the table in docs/measurements/adapters.md anew

Each method is measured in its own process with one thread, two processes at a time: shots 1, 4 and 16, seeds 1, 2 and 3
(seed 1 alone for methods that train towers; no shots for those that need no labels), on the drawn cells of the medical
domain (methods of another domain on that domain's sample), with the embedded backbone or, where a method tunes tokens
inside a transformer, with a small open_clip ViT that is pre-trained here on drawings. Memory is what the fit adds to
the process at its peak, as counted by Linux. Features are stored beforehand: the first method that asks for augmented
views has them encoded, in a minute, and stored.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adapter_page import with_table

ROOT = Path(__file__).resolve().parents[1]
TABLE, PAGE = ROOT / "docs" / "adapters.csv", ROOT / "docs" / "measurements" / "adapters.md"
SHOTS, SEEDS = (1, 4, 16), (1, 2, 3)
ANY = 0
"""In the column `shots`: the method looks at none."""
JOBS = 2
COLUMNS = (
    *("adapter", "backbone", "options", "shots", "seed", "zero_shot", "accuracy"),
    *("seconds", "mebibytes", "trained_parameters"),
)
FEWER = {
    "biomed-coop": {"epochs": 20},
    "cross-modal": {"iterations": 1000},
    "fpl": {"epochs": 15},
    "gist": {"epochs": 5},
    "grip": {"epochs": 15, "rounds": 2},
    "gta-clip": {"epochs": 2},
    "ifpl": {"epochs": 15, "rounds": 2},
    "lafter": {"epochs": 5},
    "lora": {"iterations": 20},
    "open-vclip": {"epochs": 3},
    "projection": {"views": 20},
    "reclip": {"epochs": 2},
    "s3a": {"epochs": 2},
    "stan": {"epochs": 3},
    "testa": {"epochs": 3},
    "two-stage": {"iterations": 20},
    "vifi-clip": {"epochs": 3},
    "x-clip": {"epochs": 3},
}
"""Options that keep the measurement short; the page says so."""
SMALL_VIT = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
ABOUT = {
    "cell with a segmented nucleus": "a nucleus of several lobes joined by threads",
    "cell with a round nucleus": "one large round dark nucleus",
    "cell with a kidney-shaped nucleus": "a bent nucleus like a kidney or a bean",
    "cell with coarse granules": "big orange grains fill the cell",
    "cell fragment without a nucleus": "a tiny piece, with no nucleus at all",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "one", "page"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--vit", type=Path, help="folder of the small ViT; it is pre-trained there if needed")
    parser.add_argument("--table", type=Path, default=TABLE, help="by default docs/adapters.csv")
    given = parser.parse_args()
    if given.what == "page":
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read(TABLE)), encoding="utf-8")
        return
    known = all_names()
    for name in given.names:
        if name not in known:
            parser.exit(2, f"{unknown(name, known)}\n")
    if given.what == "one":
        measure_one(given.names[0], given.vit)
    elif failed := measure(given.names or known, given.table, given.vit):
        parser.exit(1, f"failed: {', '.join(failed)}\n")


def all_names() -> list[str]:
    """Those of this package: the page is about no others."""
    from vladapt.core.registry import catalogue

    return sorted(name for name, entry in catalogue.adapters().items() if entry.entry_point is None)


def unknown(name: str, known: list[str]) -> str:
    from vladapt.core.errors import did_you_mean

    return f"unknown adapter '{name}'; {did_you_mean(name, known)}"


def measure(names: list[str], table: Path, vit: Path | None) -> list[str]:
    """One process per method, whose rows replace its old ones in the table; returns the methods that failed."""
    failed = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(JOBS) as processes:
        rows_of = processes.map(lambda name: measured(name, vit or Path(folder)), names)
        for name, rows in zip(names, rows_of):
            if not rows:
                failed.append(name)
                continue
            write(table, [row for row in read(table) if row["adapter"] != name] + rows)
            print(f"{name}: {statistics.fmean(row['seconds'] for row in rows):.2f} s per fit", file=sys.stderr)
    return failed


def measured(name: str, vit: Path) -> list[dict]:
    """The rows of one method, none where it failed."""
    command = [sys.executable, __file__, "one", name, "--vit", str(vit)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=one_thread)
    return [] if done.returncode else [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def small_vit(folder: Path) -> str:
    """A small open_clip ViT that knows drawings by their names; pre-trained by the first process that asks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not list(folder.rglob("model.safetensors")):
            pretrain(folder)
        return str(next(folder.rglob("model.safetensors")).parent)
    finally:
        os.close(held)


def pretrain(folder: Path) -> None:
    (folder / "small_vit.json").write_text(json.dumps(SMALL_VIT))
    command = [sys.executable, "-m", "vladapt", "pretrain", "--data", "sample", "--epochs", "30", "--lr", "1e-3"]
    command += ["--backbone", f"open_clip:{folder / 'small_vit.json'}@random", "--out", str(folder / "vit")]
    all_threads = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=all_threads)


def measure_one(name: str, vit: Path | None) -> None:
    """Print one JSON object per fit."""
    from vladapt.core.backbones.load import load_backbone
    from vladapt.core.recipes.asked_for import adapter_of
    from vladapt.core.recipes.resolve import resolve, task_of
    from vladapt.core.registry import build_adapter
    from vladapt.core.runtime.progress import Reporter
    from vladapt.core.tasks.classification.base import augmentations_of
    from vladapt.core.tasks.classification.fitting import fit_adapter, parts_wanted
    from vladapt.core.tasks.classification.scoring import fitted_zero_shot, score_on

    quiet, folder = Reporter(quiet=True), tempfile.TemporaryDirectory()
    vit = vit or Path(folder.name)
    options = FEWER.get(name, {})
    adapter = build_adapter(name, **options)
    flags = {"domain": domain_of(name), "adapter": {"name": name, **options}}
    flags["resources"] = resources(adapter, Path(folder.name), vit)
    if adapter.needs & {"descriptions"} or adapter.optional & {"descriptions"}:
        flags["descriptions"] = described(Path(folder.name))
    recipe = resolve(flags={**flags, "backbone": backbone_for(adapter, vit, load_backbone)})
    task = task_of(recipe)
    recipe = task.settled(recipe)
    prepared, adapter = task.prepared(recipe, quiet), adapter_of(recipe)
    augmentation = augmentations_of(recipe, prepared, {name: adapter})[name]
    unlabelled = adapter.label_free and "views" not in adapter.needs  # views are of labelled images
    for shots in [ANY] if unlabelled else SHOTS:
        for seed in SEEDS[:1] if unlabelled or "pixels" in adapter.needs else SEEDS:
            parts = parts_wanted(adapter)
            drawn = prepared.draw(shots, seed, augmentation.views, augmentation.transform, parts)
            prepared.resources.collect(adapter, drawn)  # encoded before the clock starts
            zero_shot = fitted_zero_shot(drawn.support, prepared.classifier)
            forget_peak()
            before, started = resident(), time.perf_counter()
            fitted = adapter_of(recipe)
            report = fit_adapter(fitted, prepared, drawn, seed, quiet)
            seconds, peak = time.perf_counter() - started, peak_resident()
            found = score_on(prepared, fitted, drawn.test, prepared.class_names, zero_shot, quiet).metrics
            row = {
                "adapter": name,
                "backbone": prepared.backbone.family,
                "options": " ".join(f"{key}={value}" for key, value in options.items()),
                "shots": shots,
                "seed": seed,
                "zero_shot": round(found["zero_shot"]["accuracy"], 4),
                "accuracy": round(found["adapted"]["accuracy"], 4),
                "seconds": round(seconds, 3),
                "mebibytes": round(max(0, peak - before) / 2**20),
                "trained_parameters": report.trained_parameters,
            }
            print(json.dumps(row), flush=True)


def domain_of(name: str) -> str:
    """On whose sample a method is measured."""
    from vladapt.core.registry import catalogue

    return catalogue.adapters()[name].domain or "medical"


def backbone_for(adapter, vit: Path, load_backbone) -> str:
    """The embedded one, unless the method needs transformer blocks that its image tower lacks."""
    capable = adapter.backbone_needs <= load_backbone("embedded", device="cpu").capabilities
    return "embedded" if capable else small_vit(vit)


def resources(adapter, folder: Path, vit: Path) -> dict[str, str]:
    """Small files of every kind that the adapter asks for."""
    wanted, found = adapter.needs | adapter.optional, {}
    if "captions" in wanted:
        sayings = ("a stained {} under the microscope", "{}", "a smear with one {} in the middle", "round: {}")
        lines = [saying.format(text) for pair in ABOUT.items() for text in pair for saying in sayings]
        found["captions"] = str(folder / "captions.txt")
        Path(found["captions"]).write_text("\n".join(lines))
    if "boxes" in adapter.needs:
        found["boxes"] = str(folder / "boxes.json")
        Path(found["boxes"]).write_text(json.dumps(centred_boxes()))
    if "attributes" in wanted:
        found["attributes"] = str(folder / "attributes.json")
        Path(found["attributes"]).write_text(json.dumps({name: [name, about] for name, about in ABOUT.items()}))
    if "synonyms" in wanted:
        found["synonyms"] = str(folder / "synonyms.json")
        Path(found["synonyms"]).write_text(json.dumps({name: {name: 1, other: 2} for name, other in ABOUT.items()}))
    if "further_backbones" in wanted:
        found["further_backbones"] = small_vit(vit)
    return found


def described(folder: Path) -> str:
    path = folder / "descriptions.json"
    path.write_text(json.dumps({name: [text, f"a cell that shows {text}"] for name, text in ABOUT.items()}))
    return str(path)


def centred_boxes() -> dict:
    """The middle of each sample image, where its one cell lies, as a detector would write it."""
    from vladapt.core.registry import load_domain

    data = load_domain("medical").sample("classification")
    images, found = [], []
    for number, item in enumerate(data.items):
        height, width = data.load(item).shape[:2]
        images.append({"id": number, "file_name": item.id, "height": height, "width": width})
        box = [0.15 * width, 0.15 * height, 0.7 * width, 0.7 * height]
        found.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "score": 0.9})
    return {"images": images, "annotations": found, "categories": [{"id": 1, "name": "cell"}]}


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def resident() -> int:
    return _status("VmRSS")


def peak_resident() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    """Bytes."""
    return 1024 * int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def read(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    numbers = {"shots": int, "seed": int, "mebibytes": int, "trained_parameters": int}
    numbers |= dict.fromkeys(("zero_shot", "accuracy", "seconds"), float)
    with path.open(newline="") as file:
        return [{key: numbers.get(key, str)(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write(path: Path, rows: list[dict]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["adapter"], row["shots"], row["seed"])))
    os.replace(partial, path)


if __name__ == "__main__":
    main()
