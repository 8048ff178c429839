"""A stage for tests."""

import io

import numpy as np
from PIL import Image

from vladapt.core.shards import function_stage


def brightness(rows):
    """The mean of each image."""
    return {"brightness": [float(np.asarray(Image.open(io.BytesIO(row.read())).convert("RGB")).mean()) for row in rows]}


STAGE = function_stage(brightness, {"brightness": "float"})
