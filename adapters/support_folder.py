"""Images gathered or made for class names (`resources["support_folder"]`), checked against the classes of a fit."""

from __future__ import annotations

from typing import Any

from ..core.contracts import FeatureSet, TextClassifier
from ..core.errors import DataError


def support_folder_images(
    resources: dict[str, Any], support: FeatureSet, classifier: TextClassifier
) -> FeatureSet | None:
    """The labelled images of the support folder, on the device of the support; None where there is no folder.

    Args:
        resources: of the fit.
        support: the shots.
        classifier: of the classes that the folder's labels must index.

    Raises:
        DataError: no image, no label or several per image, features of another width, other classes or their order.
    """
    images = resources.get("support_folder")
    if images is None:
        return None
    if not len(images) or images.labels is None or images.multilabel:
        raise DataError("support folder: each image needs one label; lay them out as one folder per class")
    if images.dim != support.dim:
        raise DataError(
            f"support folder: features are {images.dim} wide, those of the shots {support.dim}; "
            "both must come from one backbone"
        )
    names = classifier.class_names or support.class_names
    if images.class_names and names and tuple(images.class_names) != tuple(names):
        raise DataError(
            f"support folder: its classes ({_few(images.class_names)}) are not those of the fit, in that order "
            f"({_few(names)}); name its folders after the classes"
        )
    if int(images.labels.max()) >= len(classifier):
        raise DataError(f"support folder: labels reach {int(images.labels.max())}, there are {len(classifier)} classes")
    return images.to(support.features.device)


def _few(names) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
