"""Each type of segmentors of transformers learns eight drawn images by heart, by `fit`: tiny random models, as no
weights are fetched.

    python benchmarks/overfit_maps.py [TYPE ...]

Prints per type mIoU on the images and the CPU seconds of the fit.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from usage import print_help

TINY = Path(__file__).resolve().parents[1] / "tests" / "domains" / "open_vocab" / "hub_models" / "tiny_maps.py"
NAMES = ("background", "red disc")
"""Known before; the third class of the data, "blue square", is a new row."""
EPOCHS_AND_RATE = {"segformer": (500, 2e-3), "mask2former": (300, 1e-3), "eomt": (400, 2e-3)}


def learn(kind: str, folder: Path) -> tuple[dict[str, float], float]:
    """Scores after a fit of a tiny model of a type, and its CPU seconds."""
    import vladapt

    spec = spec_from_file_location("tiny_maps", TINY)
    tiny = module_from_spec(spec)
    spec.loader.exec_module(tiny)
    data, source = tiny.scenes(folder / "data"), tiny.written(folder / kind, kind, NAMES)
    epochs, rate = EPOCHS_AND_RATE[kind]
    how = {"epochs": epochs, "lr": rate, "batch_size": 8, "workers": 0, "device": "cpu", "out": str(folder / "runs")}
    began = time.process_time()
    fit = vladapt.fit(domain="open-vocab", task="segmentation", data=str(data), start=f"hf:{source}", **how)
    return fit.metrics["adapted"], time.process_time() - began


def main(kinds: list[str]) -> None:
    print("| type | mIoU | epochs | CPU s |\n|---|---|---|---|")
    for kind in kinds or EPOCHS_AND_RATE:
        with tempfile.TemporaryDirectory() as folder:
            scores, seconds = learn(kind, Path(folder))
        print(f"| `{kind}` | {scores['mIoU']:.3f} | {EPOCHS_AND_RATE[kind][0]} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    print_help(__doc__)
    main(sys.argv[1:])
