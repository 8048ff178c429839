"""Small slides, written where a test wants them."""

from pathlib import Path

import numpy as np
import pytest

from vladapt.domains.medical.slides.drawn import deflated, write_pyramid

TISSUE = (214, 160, 190)


@pytest.fixture
def write_slide(tmp_path):
    """write_slide("a.tif", height, width, tissue=(slice, slice), mpp=0.5, levels=2) -> its path."""

    def write(name, height=512, width=768, tissue=None, mpp=0.5, levels=2, pixels=None) -> Path:
        if pixels is None:
            pixels = np.full((height, width, 3), 250, np.uint8)
            pixels[tissue or (slice(None), slice(None))] = TISSUE
        shown = [pixels[:: 2**level, :: 2**level] for level in range(levels)]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pyramid(path, [each.shape[:2] for each in shown], [deflated(each) for each in shown], mpp)
        return path

    return write
