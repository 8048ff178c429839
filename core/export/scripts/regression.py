"""A number per image, by the model beside this file: python predict.py IMAGE ...

Needs onnxruntime, numpy and pillow. Prints a JSON object per image, as `vladapt predict --json` does, and faults on
stderr.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
try:
    from ..standalone import decoded, pixels
    from .pictures import asked, facts_of
except ImportError:  # a script, whose folder `python -I` leaves out
    sys.path.insert(0, str(HERE))
    from pictures import asked, facts_of  # type: ignore[no-redef]
    from standalone import decoded, pixels  # type: ignore[no-redef]


def row_of(name, outputs, place, facts):
    """What is said of an image, the one at `place` of the outputs of the graph."""
    number = float(outputs["number"][place])
    half = float(outputs["half_width"][place]) if "half_width" in outputs else None
    if not np.isfinite(number):
        raise ValueError("the model gives NaN or infinity for it")
    low, high = (None, None) if half is None else (number - half, number + half)
    return {"id": str(name), "number": number, "low": low, "high": high, "column": facts["column"]}


if __name__ == "__main__":
    facts = facts_of(HERE)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    given, ask, failed = parser.parse_args(), asked(HERE, facts, "pixels"), False
    for path in given.images:
        try:
            planes = pixels(decoded(path), facts["preprocessing"])
            print(json.dumps(row_of(path, ask({"pixels": planes}), 0, facts)))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            print(f"{path}: {' '.join(str(error).split())}; replace it or leave it out", file=sys.stderr)
            failed = True
    sys.exit(int(failed))
