"""What training on clips costs: heads on stored features of frames and patches, and towers trained end to end.

    python benchmarks/video_training.py
    python benchmarks/video_training.py --device cuda --backbone open_clip:ViT-B-16/openai --data FOLDER --shots 16
    python benchmarks/video_training.py --merging --architecture ViT-B-16

The default is clips of the sample and a CLIP with random weights (`--architecture`), since time does not depend on the
weights. Frames are decoded and encoded once, into a store that is removed at the end. Then each head is fitted from the
store with its default settings, and one epoch of `vifi-clip` decodes, augments and trains both towers. Seconds are CPU
seconds over all cores, or on a GPU wall-clock seconds. Each row shows the peak memory of the process so far, so it is
never less than in the rows above.

`--merging` instead counts, without computing, the tokens and operations of an image tower with `testa`'s merging.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from vladapt import build_adapter, load_backbone
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.fitting import fit_adapter
from vladapt.domains.video.adapters.testa import AggregatingFrames, tower_cost

HEADS = ("mean-pool", "temporal-adapter", "clip4clip", "action-clip", "pllava-pool")
END_TO_END = "vifi-clip"
TESTS = 8
"""Clips for testing that are encoded too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=HEADS, help="heads")
    parser.add_argument("--data", default="sample")
    parser.add_argument("--backbone", help="a spec, in place of random weights")
    parser.add_argument("--architecture", default="ViT-S-32", help="an architecture of open_clip, for random weights")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--merging", action="store_true", help="count the tokens and operations that testa leaves")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLADAPT_CACHE"] = folder
        spec = given.backbone or random_clip(given.architecture, Path(folder))
        merging(spec) if given.merging else measure(given, spec)


def merging(spec: str) -> None:
    """Of a clip, counted on torch's meta device, which holds no numbers."""
    print("| frames | patch tokens | after merging | billions of multiply-adds | with merging |")
    print("|---:|---:|---:|---:|---:|")
    for frames in (8, 32):
        backbone = load_backbone(spec, device="cpu")
        AggregatingFrames(backbone, frames).attach(backbone)
        backbone.to("meta")
        whole, less = (tower_cost(backbone, aggregates) for aggregates in (False, True))
        products = [cost.flops / 2e9 for cost in (whole, less)]
        print(f"| {frames} | {whole.tokens:,} | {less.tokens:,} | {products[0]:.0f} | {products[1]:.0f} |", flush=True)


def measure(given, spec: str) -> None:
    flags = {"domain": "video", "backbone": spec, "device": given.device}
    flags |= {} if given.data == "sample" else {"data": {"path": given.data, "frames": given.frames}}
    recipe = resolve(flags=flags)
    task = task_of(recipe)
    prepared = task.prepared(task.settled(recipe), Reporter(quiet=True))
    train, test = prepared.data.split("train"), prepared.data.split("test")[:TESTS]
    prepared.data = prepared.data.with_items([*train, *test])
    shots, seconds = timed(lambda: prepared.draw(given.shots, 1, parts=True), given.device)
    clips, frames = len(shots.support), shots.support.parts.shape[1]
    print(f"{clips} training clips of {frames} frames, {len(shots.test)} test clips; {given.device}\n")
    kind = "CPU seconds" if given.device == "cpu" else "seconds"
    print(f"| | epochs | {kind} | {kind} per epoch | peak memory |\n|---|---:|---:|---:|---:|")
    row(f"frames of all {clips + len(shots.test)} clips decoded and encoded, once", None, seconds)
    if "pllava-pool" in given.names:
        items = [*shots.items, *prepared.test_items]
        _, seconds = timed(lambda: prepared.patch_tokens.fill(items, Reporter(quiet=True)), given.device)
        row("their patches as well, once", None, seconds)
    for name, options in [*((name, {}) for name in given.names), (END_TO_END, {"epochs": 1, "batch_size": 8})]:
        adapter = build_adapter(name, **options)
        report, seconds = timed(
            lambda adapter=adapter: fit_adapter(adapter, prepared, shots, 1, Reporter(quiet=True)), given.device
        )
        what = "from stored patches" if "patch_tokens" in adapter.needs else "from stored features"
        row(f"`{name}` {'end to end' if name == END_TO_END else what}", report.chosen["epochs"], seconds)


def row(what: str, epochs: int | None, seconds: float) -> None:
    passes = " | " if epochs is None else f"{epochs} | "
    each = "" if epochs is None else f"{seconds / epochs:.3g}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"| {what} | {passes}{seconds:.1f} | {each} | {peak:.1f} GB |", flush=True)


def timed(step, device: str):
    """What a step gives, and how many seconds it took; on a CPU that others use too, of its own work."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    made = step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return made, clock() - started


def random_clip(architecture: str, folder: Path) -> str:
    """The spec of a CLIP of random weights, written to a folder."""
    import open_clip

    torch.manual_seed(0)
    config = open_clip.get_model_config(architecture)
    weights = {name: value.contiguous() for name, value in open_clip.create_model(architecture).state_dict().items()}
    (folder / "clip.json").write_text(json.dumps(config))
    save_file(weights, folder / "clip.safetensors")
    return f"open_clip:{folder / 'clip.json'}@{folder / 'clip.safetensors'}"


if __name__ == "__main__":
    main()
