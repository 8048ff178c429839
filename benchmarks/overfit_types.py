"""Each type of detectors of transformers learns eight drawn images by heart, by `fit`: tiny random models, as no
weights are fetched.

    python benchmarks/overfit_types.py [TYPE ...]

Prints per type AP50 on the eight images (mask AP50 too where the type has masks) and the CPU seconds of the fit.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from usage import print_help

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "domains" / "open_vocab" / "hub_models" / "tiny.py"
COLOURS = ("red", "green", "blue", "yellow")
SIDE, IMAGES = 64, 8
RATES = {"rt_detr": 4e-3, "rt_detr_v2": 4e-3, "d_fine": 4e-3, "deimv2": 4e-3}
RATE, EPOCHS = 2e-3, 400
OPTIONS = {name: {"num_denoising": 0, "num_queries": 12} for name in ("rt_detr_v2", "d_fine")}
TYPES = ("rt_detr_v2", "d_fine", "rf_detr", "rf_detr_masks")


def tiny_models():
    """The module that builds them."""
    spec = spec_from_file_location("tiny", TINY)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn_set(folder: Path) -> Path:
    """Eight images with coloured shapes to learn, and one more for the test that every fit has, as COCO files."""
    (folder / "images").mkdir(parents=True)
    for split, numbers in (("train", range(IMAGES)), ("test", [IMAGES])):
        (folder / f"instances_{split}.json").write_text(json.dumps(_coco(folder, numbers)), encoding="utf-8")
    return folder


def _coco(folder: Path, numbers) -> dict:
    import numpy as np
    from PIL import Image

    from vladapt.domains.open_vocab.shapes import draw

    listed, annotations = [], []
    for number in numbers:
        picture, things = draw(number)
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


def learn(kind: str, folder: Path, data: Path, epochs: int = EPOCHS, rate: float | None = None):
    """Scores on the eight images after a fit of a tiny model of a type, and its run."""
    import vladapt

    tiny = tiny_models()
    model, processor = getattr(tiny, kind)(COLOURS, **OPTIONS.get(kind, {}))
    source = tiny.saved(folder / kind, model, processor)
    rate = rate or RATES.get(kind, RATE)
    how = {"epochs": epochs, "lr": rate, "batch_size": IMAGES, "workers": 0, "device": "cpu", "seed": 1}
    plan = {"optim_wrapper": {"paramwise_cfg": {"custom_keys": {"backbone": {"lr_mult": 1.0}}}}}  # it knows nothing yet
    how["plan"] = plan
    fit = vladapt.fit(domain="open-vocab", data=str(data), start=f"hf:{source}", out=str(folder / "runs"), **how)
    return vladapt.evaluate(fit.run, split="train", device="cpu")["adapted"], fit.run


def main(kinds: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = drawn_set(Path(folder) / "data")
        print("| type | AP50 | mask AP50 | CPU seconds |\n|---|---|---|---|")
        for kind in kinds or TYPES:
            started = time.process_time()
            scores, _ = learn(kind, Path(folder), data)
            masks = f"{scores['mask_AP50']:.3f}" if "mask_AP50" in scores else ""
            print(f"| {kind} | {scores['AP50']:.3f} | {masks} | {time.process_time() - started:.0f} |", flush=True)


if __name__ == "__main__":
    print_help(__doc__)
    main(sys.argv[1:])
