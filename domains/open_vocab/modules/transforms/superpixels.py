"""Superpixels of an image, as labels for a loss that keeps their patches together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform

from .....core.contracts import require
from .....core.data import IMAGE
from .....core.errors import CapabilityError, DataError
from .....core.runtime import check_regular
from .....registry import TRANSFORMS

KEY, PATH_KEY = "superpixels", "superpixel_path"


@TRANSFORMS.register_module()
class Superpixels(BaseTransform):
    """Adds `superpixels`, an int32 label map of the image's height and width.

    Efficient Graph-Based Image Segmentation (Felzenszwalb and Huttenlocher, 2004); the defaults are those of SegCLIP
    (2022, arXiv 2211.14813). A sample that names a map made before, `superpixel_path` (an image of labels, or .npy),
    has that one. The map is resized, flipped and cropped with the image by transforms that come later.

    Args:
        scale: the higher, the larger the superpixels; above 0.
        sigma: of the blur that comes first, pixels, 0 or more.
        min_size: pixels of the smallest superpixel, 1 or more.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: scikit-image is not installed and a sample names no map.
        DataError: a map that cannot be read, or of another size than its image.
    """

    def __init__(self, scale: float = 224, sigma: float = 0.9, min_size: int = 224):
        require(scale > 0, "scale", scale, "give a number above 0")
        require(sigma >= 0, "sigma", sigma, "give 0 or more")
        require(min_size >= 1, "min_size", min_size, "give 1 or more")
        self.scale, self.sigma, self.min_size = scale, sigma, min_size

    def transform(self, results: dict) -> dict:
        """`results` with `img` (H, W, 3) -> the same with the map."""
        path = results.get(PATH_KEY)
        results[KEY] = self._segment(results["img"]) if path is None else _read(Path(path), results["img"].shape[:2])
        fields = results.setdefault("seg_fields", [])
        if KEY not in fields:
            fields.append(KEY)
        return results

    def _segment(self, image: np.ndarray) -> np.ndarray:
        try:
            from skimage.segmentation import felzenszwalb
        except ModuleNotFoundError:
            raise CapabilityError(
                "transform Superpixels needs scikit-image, or superpixel_path in each sample; install it with: "
                "pip install 'vladapt[open-vocab]'"
            ) from None
        rgb = np.ascontiguousarray(image[..., ::-1])
        return felzenszwalb(rgb, scale=self.scale, sigma=self.sigma, min_size=self.min_size).astype(np.int32)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self.scale}, sigma={self.sigma}, min_size={self.min_size})"


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        check_regular(path)
        is_array = path.suffix == ".npy"  # mapped, so that its shape is one that the file has the bytes of
        labels = np.load(path, mmap_mode="r", allow_pickle=False) if is_array else IMAGE.values(path)
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path}: superpixels cannot be read ({error}); give an image of labels, or .npy") from None
    if labels.shape != tuple(size):
        raise DataError(
            f"{path}: superpixels of shape {labels.shape} for an image of {tuple(size)}; make them of this image"
        )
    return labels.astype(np.int32)
