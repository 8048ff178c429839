"""A stage of your own: one function, run over any number of images, by one process, several, or a cluster.

python examples/own_stage.py OUT FOLDER...      (also tars, Parquet files and URLs; again: it goes on where it stopped)
"""

import io
import sys

import numpy as np
from PIL import Image

from vladapt.api import run_stage


def sharpness(rows):
    """Of each image its width, and the variance of its Laplacian: low where it is blurred."""
    widths, variances = [], []
    for row in rows:
        grey = np.asarray(Image.open(io.BytesIO(row.read())).convert("L"), np.float32)
        edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
        widths.append(grey.shape[1])
        variances.append(edges.var())
    return {"width": widths, "sharpness": variances}


if __name__ == "__main__":  # worker processes import this file
    out, *sources = sys.argv[1:]
    made = run_stage(sharpness, sources, out, columns={"width": "int32", "sharpness": "float"}, shard_size=1000)
    print(f"{made.rows} images in {made.shards} shards, {made.unreadable} unreadable")
