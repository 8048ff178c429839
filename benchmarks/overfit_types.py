"""Each type of detectors of transformers learns eight drawn images by heart, by `fit`: tiny random models, as no
weights are fetched.

    python benchmarks/overfit_types.py [TYPE ...]

Prints per type AP50 on the eight images (mask AP50 too where the type has masks), the same of what predict.py of the
run's export says, and the CPU seconds of the fit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from usage import print_help

from vladapt.core.errors import VladaptError

MODELS = Path(__file__).resolve().parents[1] / "tests" / "domains" / "open_vocab" / "hub_models"
COLOURS = ("red", "green", "blue", "yellow")
SIDE, IMAGES = 64, 8


@dataclass(frozen=True)
class Setting:
    """How a tiny model of a type is trained.

    Args:
        lr, epochs: of one step each.
        options: what differs from the tests' configuration.
        parts: text within the names of weights that have the whole rate too, as they know nothing yet.
        square: whether its processor is to squeeze images, as a graph needs; square ones stay as they are.
    """

    lr: float = 2e-3
    epochs: int = 400
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ("backbone",)
    square: bool = False


SETTINGS = {
    "rt_detr_v2": Setting(4e-3, epochs=800, options={"num_denoising": 0, "num_queries": 12}),
    # a random HGNetv2 whose batch norms are frozen gives features of 1e-11, from which nothing can be learnt
    "d_fine": Setting(epochs=800, options={"num_denoising": 0, "freeze_backbone_batch_norms": False}),
    "rf_detr": Setting(),
    "rf_detr_masks": Setting(),
    # no loss trains the layers that choose the queries' places: all 85 places are queries
    "mm-grounding-dino": Setting(options={"num_queries": 85}, square=True),
    # random heads of transformers give logits and boxes that saturate; a tenth of their weights does not
    "owlv2": Setting(options={"initializer_factor": 0.1}, epochs=300, parts=("text",)),
    "mask2former": Setting(parts=("pixel_level_module.encoder",), square=True),
    "eomt": Setting(epochs=800, square=True),
}


def tiny_models(name: str = "tiny") -> ModuleType:
    """A module that builds them."""
    spec = spec_from_file_location(name, MODELS / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(kind: str, folder: Path, options: Mapping[str, Any]) -> Path:
    """The folder of a tiny model of a type, as the hub has it."""
    if kind in ("mm-grounding-dino", "owlv2", "owlvit"):
        return tiny_models("tiny_texts").write_folder(kind, folder, **options)
    if kind in ("mask2former", "eomt"):
        return tiny_models("tiny_maps").written(folder, kind, COLOURS, **options)
    tiny = tiny_models()
    return tiny.saved(folder, *getattr(tiny, kind)(COLOURS, **options))


def drawn_set(folder: Path) -> Path:
    """Eight images with coloured shapes to learn, and one more for val and for test each, which every fit has, as COCO
    files."""
    (folder / "images").mkdir(parents=True)
    for split, numbers in (("train", range(IMAGES)), ("val", [IMAGES]), ("test", [IMAGES + 1])):
        (folder / f"instances_{split}.json").write_text(json.dumps(_coco(folder, numbers)), encoding="utf-8")
    return folder


def _coco(folder: Path, numbers) -> dict:
    import numpy as np
    from PIL import Image
    from plain_shapes import draw_shapes

    listed, annotations = [], []
    for number in numbers:
        picture, things = draw_shapes(number)
        scale = SIDE / picture.shape[0]
        name = f"{number}.png"
        Image.fromarray(picture).resize((SIDE, SIDE)).save(folder / "images" / name)
        listed.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for label, outline in things:
            points = np.array(outline) * scale
            (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": label // 4 + 1, "iscrowd": 0}
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            annotations.append({**annotation, **box, "segmentation": [points.flatten().tolist()]})
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(COLOURS)]
    return {"images": listed, "annotations": annotations, "categories": categories}


def learn(kind: str, folder: Path, data: Path, **changes: Any):
    """Scores on the eight images after a fit of a tiny model of a type, and its run.

    Args:
        changes: of the type's setting.
    """
    import vladapt

    setting = replace(SETTINGS[kind], **changes)
    source = written(kind, folder / kind, setting.options)
    how = {"epochs": setting.epochs, "lr": setting.lr, "batch_size": IMAGES, "workers": 0, "device": "cpu", "seed": 1}
    rates = {part: {"lr_mult": 1.0} for part in setting.parts}
    plan: dict[str, Any] = {"optim_wrapper": {"paramwise_cfg": {"custom_keys": rates}}}
    if setting.square:
        plan["model"] = {"processor": {"size": {"height": SIDE, "width": SIDE}}}
    how |= {"plan": plan, "out": str(folder / "runs")}
    fit = vladapt.fit(domain="open-vocab", task="detection", data=str(data), start=f"hf:{source}", **how)
    return vladapt.evaluate(fit.run, split="train", device="cpu")["adapted"], fit.run


def score_exported(run: Path, folder: Path, data: Path) -> dict[str, float]:
    """Scores on the eight images of what predict.py of a run's export prints; none of a type whose export has none."""
    import numpy as np

    import vladapt
    from vladapt.domains.open_vocab.scores.detection import Detected, Truth, score_detections

    vladapt.export(run, out=str(folder))
    if not (folder / "predict.py").is_file():
        return {}
    content = json.loads((data / "instances_train.json").read_text(encoding="utf-8"))
    pictures = [str(data / "images" / each["file_name"]) for each in content["images"]]
    script = [sys.executable, str(folder / "predict.py"), *pictures]
    lines = subprocess.run(script, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    truths, detected = [], []
    for image, row in zip(content["images"], rows, strict=True):
        own = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        corners = np.array([each["bbox"] for each in own])
        corners[:, 2:] += corners[:, :2]
        labels = [each["category_id"] - 1 for each in own]
        size = (image["width"], image["height"])
        truths.append(Truth(corners, labels, outlines=[each["segmentation"] for each in own], size=size))
        numbers = np.array([COLOURS.index(label) for label in row["labels"]], dtype=int)
        detected.append(Detected(np.array(row["boxes"]), np.array(row["scores"]), numbers, row.get("masks")))
    scores = score_detections(truths, detected, COLOURS).metrics
    if "masks" in rows[0]:
        masks = score_detections(truths, detected, COLOURS, outlines=True).metrics
        scores |= {f"mask_{name}": value for name, value in masks.items()}
    return scores


def main(kinds: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = drawn_set(Path(folder) / "data")
        print("| type | AP50 (of masks) | of predict.py of its export | epochs | CPU s |\n|---|---|---|---|---|")
        for kind in kinds or SETTINGS:
            started = time.process_time()
            scores, run = learn(kind, Path(folder), data)
            seconds, epochs = time.process_time() - started, SETTINGS[kind].epochs
            try:
                exported = _shown(score_exported(run, Path(folder) / "exported" / kind, data))
            except VladaptError as error:
                exported = str(error)
            print(f"| `{kind}` | {_shown(scores)} | {exported} | {epochs} | {seconds:.0f} |", flush=True)


def _shown(scores: Mapping[str, float]) -> str:
    if not scores:
        return "no predict.py"
    masks = f" ({scores['mask_AP50']:.3f})" if "mask_AP50" in scores else ""
    return f"{scores['AP50']:.3f}{masks}"


if __name__ == "__main__":
    print_help(__doc__)
    main(sys.argv[1:])
