"""A fit of a detector of transformers beside a loop of thirty lines around transformers' model, processor and AdamW.

    python benchmarks/beside_transformers.py [--type rt_detr_v2] [--rounds 5] [--side 640]

Both train the same tiny random model on the same files at 640 px in the same order, in float32, without augmentation,
each in a process of its own, one after the other; both decode, resize and normalise the images within their steps.
Boxes are of whole pixels: transformers adds their sides in float32, and Adam makes much of a last bit.
Prints the largest relative difference of the losses of 20 steps, and the ratios of the CPU time of steps 5 to 20 and of
the peak of memory above that after the imports, which a first process of each, not counted, has listed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from overfit_types import COLOURS, tiny_models

STEPS, BATCH, FIRST, RATE = 20, 2, 5, 1e-4
PLAIN = {"num_denoising": 0}
"""What is drawn by chance differs between any two loops."""


def prepare(kind: str, folder: Path, side: int) -> None:
    """The model's folder, and images with their boxes as one COCO file."""
    from PIL import Image
    from plain_shapes import draw_shapes

    tiny = tiny_models()
    model, processor = getattr(tiny, kind)(COLOURS, **(PLAIN if kind.startswith("rt_detr") else {}))
    tiny.saved(folder / "model", model, {**processor, "size": {"height": side, "width": side}})
    (folder / "data").mkdir()
    for split, numbers in _splits():
        listed, annotations = [], []
        for number in numbers:
            picture, things = draw_shapes(number)
            name = f"{number:03d}.png"
            Image.fromarray(picture).resize((side, side)).save(folder / "data" / name)
            listed.append({"id": number, "file_name": name, "width": side, "height": side})
            scale = side / picture.shape[0]
            for label, outline in things:
                xs, ys = ([round(point[axis] * scale) for point in outline] for axis in (0, 1))
                box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
                about = {"image_id": number, "category_id": label // 4, "iscrowd": 0, "area": box[2] * box[3]}
                annotations.append({"id": len(annotations) + 1, "bbox": box, **about})
        categories = [{"id": place, "name": name} for place, name in enumerate(COLOURS)]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (folder / "data" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _splits():
    """Which images each has; a fit without val would take it from train."""
    images = STEPS * BATCH
    return ("train", range(images)), ("val", [images]), ("test", [images + 1])


def theirs(folder: Path) -> dict:
    """The loop."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    start = peak()
    content = json.loads((folder / "data" / "instances_train.json").read_text())
    processor = AutoImageProcessor.from_pretrained(folder / "model")
    model = AutoModelForObjectDetection.from_pretrained(folder / "model").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses, clock = [], []
    for step in range(STEPS):
        images, annotations = [], []
        for image in content["images"][step * BATCH : (step + 1) * BATCH]:
            images.append(Image.open(folder / "data" / image["file_name"]).convert("RGB"))
            own = [each for each in content["annotations"] if each["image_id"] == image["id"]]
            annotations.append({"image_id": image["id"], "annotations": own})
        batch = processor(images=images, annotations=annotations, return_tensors="pt")
        labels = [{key: label[key] for key in ("class_labels", "boxes")} for label in batch["labels"]]
        loss = model(pixel_values=batch["pixel_values"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        clock.append(time.process_time())
    return {"losses": losses, "clock": clock, "peak": peak() - start}


def ours(folder: Path) -> dict:
    """A fit's own training."""
    import torch
    from mmengine.hooks import Hook

    import vladapt.domains.open_vocab.inference.detection
    import vladapt.domains.open_vocab.modules  # noqa: F401
    from vladapt.core.recipes.resolve import resolve, task_of
    from vladapt.core.runtime import Reporter
    from vladapt.registry import HOOKS

    losses, clock = [], []
    start = peak()

    @HOOKS.register_module()
    class StepClock(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
            losses.append(float(outputs["loss"]))
            clock.append(time.process_time())

    flags = {"domain": "open-vocab", "task": "detection", "data.path": str(folder / "data"), "batch_size": BATCH}
    flags |= {"start": f"hf:{folder / 'model'}", "adapter.epochs": 1, "workers": 0, "device": "cpu"}
    recipe = resolve(flags=flags)
    task = task_of(recipe)
    recipe, reporter = task.settled(recipe), Reporter(quiet=True)
    data = task._data(recipe, reporter)
    plan = task.plan(recipe, data, None)
    dataset = plan.train_dataloader.dataset.dataset
    dataset.pipeline = [each for each in dataset.pipeline if each["type"] != "RandomFlip"]
    plan.train_dataloader.sampler.shuffle = False
    plan.optim_wrapper = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": RATE, "weight_decay": 0.0},
        "paramwise_cfg": {"bypass_duplicate": True},
    }
    plan.param_scheduler, plan.custom_hooks = None, [{"type": "vladapt.StepClock"}]
    with tempfile.TemporaryDirectory() as place:
        task.train(plan, Path(place), recipe, data, torch.device("cpu"), reporter)
    return {"losses": losses, "clock": clock, "peak": peak() - start}


def losses_apart(ours: dict, theirs: dict) -> float:
    """The largest relative difference of the losses of a step."""
    pairs = zip(ours["losses"], theirs["losses"], strict=True)
    return max(abs(one - other) / abs(other) for one, other in pairs)


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_one(who: str, folder: Path) -> dict:
    """In this process, with whatever an earlier one has imported in the end imported before; see `peak`."""
    listed = folder / f"{who}.json"
    for name in json.loads(listed.read_text()) if listed.is_file() else ():
        with contextlib.suppress(Exception):  # a name in sys.modules need be no module of its own
            importlib.import_module(name)
    result = {"ours": ours, "theirs": theirs}[who](folder)
    listed.write_text(json.dumps([name for name in list(sys.modules) if name != "__main__"]))
    return result


def _seconds(result: dict) -> float:
    return result["clock"][-1] - result["clock"][FIRST - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--type", default="rt_detr_v2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=640, help="of the images, in pixels")
    parser.add_argument("--one", nargs=2, help="of the processes: ours or theirs, and the folder")
    given = parser.parse_args()
    if given.one:
        print("RESULT" + json.dumps(run_one(given.one[0], Path(given.one[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(given.type, Path(folder), given.side)
        results: dict[str, list[dict]] = {"theirs": [], "ours": []}
        for number in range(1 + given.rounds):
            for who, listed in results.items():
                done = subprocess.run([sys.executable, __file__, "--one", who, folder], capture_output=True, text=True)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
                if not lines:
                    sys.exit(done.stderr[-2000:])
                if number:
                    listed.append(json.loads(lines[0].removeprefix("RESULT")))
                    seconds, most = _seconds(listed[-1]), listed[-1]["peak"]
                    print(f"round {number}, {who}: {seconds:.2f} s, {most:.0f} MiB", file=sys.stderr, flush=True)
    apart = losses_apart(results["ours"][0], results["theirs"][0])
    print(f"largest relative difference of {STEPS} losses: {apart:.1e}")
    seconds = {who: [_seconds(each) for each in of] for who, of in results.items()}
    for what, of in (("CPU", seconds), ("peak", {who: [each["peak"] for each in r] for who, r in results.items()})):
        own, other = statistics.median(of["ours"]), statistics.median(of["theirs"])
        print(f"{what}: {own:.2f} beside {other:.2f}, {own / other:.2f} x (median of {given.rounds})")


if __name__ == "__main__":
    main()
