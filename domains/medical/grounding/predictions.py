"""What phrases find in new images: rows, pictures of the maps, and files of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor

from ....core.contracts import Decoded, Use
from ....core.data import csv_text
from ....core.errors import CapabilityError, DataError
from ....core.explanation import overlaid
from ....core.runtime import file_stem, json_text, read_text, write_whole
from .locating import Located
from .maps import for_eyes, unit_range

COLUMNS = ("id", "phrase", "finding", "said", "probability", "x", "y", "similarity", "picture")
NO_PHRASE = 'no phrase to look for; give --classes "a finding in words", or a text file with one phrase per line'
BOX = (64, 224, 208)
SIDE = 900


@dataclass
class PredictedMaps:
    """What phrases find in new images.

    Attributes:
        facts: the rows.
        skipped: (id, reason) of images that could not be read, and of phrases that ask for nothing.
        files: pictures and, on demand, files of rows.
        notes: sentences for the user.
    """

    facts: list[dict[str, Any]]
    skipped: list[tuple[str, str]]
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per image and finding that was looked for: the image's id; the phrase, the finding that it is about,
        and what the phrase says of it ("denied by the text" or nothing); the probability of the finding by the image
        alone; the pixel where the map is highest, and its value; the picture of the map."""
        return self.facts

    def write(self, path: Path) -> None:
        """Write a file of rows: .csv or .jsonl.

        Raises:
            DataError: nothing can be written there.
        """
        if path.suffix.lower() == ".csv":
            text = csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in self.facts))
        else:
            text = "".join(json_text(row) + "\n" for row in self.facts)
        write_whole(path, text)
        self.files.append(path)


def phrase_row(id_: str, located: Located, heat: Tensor, picture: str = "") -> dict[str, Any]:
    """One row.

    Args:
        heat: (H, W) map.
        picture: name of the file of its map.
    """
    sought = located.sought
    highest = int(heat.nan_to_num(-np.inf).argmax())
    y, x = divmod(highest, heat.shape[1])
    return {
        "id": id_,
        "phrase": sought.phrase,
        "finding": sought.finding,
        "said": sought.said,
        "probability": located.probability,
        "x": x,
        "y": y,
        "similarity": float(heat.flatten()[highest]),
        "picture": picture,
    }


def heat_picture(image: Decoded, heat: Tensor, boxes: Sequence[Sequence[float]] = (), side: int = SIDE) -> np.ndarray:
    """(h, w, 3) uint8: the map over the image, with boxes x0, y0, x1, y1 in pixels of the image.

    Args:
        image: (H, W, 3) or (H, W), uint8 or float in 0..1.
        heat: (H, W), NaN where nothing is known.
        side: the longest of the picture.
    """
    import cv2

    image = np.asarray(image)
    image = image if image.ndim == 3 else image[..., None]
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    if image.dtype != np.uint8:
        image = (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8)
    by = min(1.0, side / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * by)), max(1, round(image.shape[0] * by))
    shown = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(for_eyes(unit_range(heat)), size, interpolation=cv2.INTER_LINEAR)
    picture = overlaid(shown, torch.from_numpy(small))
    for box in boxes:
        left, top, right, bottom = (round(corner * by) for corner in box)
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), BOX, max(1, round(max(size) / 300)))
    return picture


def picture_folder(out: str | Path | None) -> Path | None:
    """The folder of the pictures, before anything is looked for in vain; None where none are wanted.

    Raises:
        DataError: it cannot be made.
    """
    if out is None:
        return None
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be made ({error.strerror}); give a writable folder") from error
    return Path(out)


def write_picture(picture: np.ndarray, folder: Path, id_: str, number: int) -> Path:
    """Write a map as PNG; the name is of the image and the number of its phrase.

    Raises:
        DataError: nothing can be written there.
    """
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    path = folder / f"{file_stem(Path(id_).stem)}-{number}.png"
    write_whole(path, buffer.getvalue())
    return path


def phrases_asked(use: Use) -> list[str]:
    """What `--classes` asks for: a list, a text, or a text file with one phrase per line.

    Raises:
        CapabilityError: no phrase is given.
    """
    given = use.classes
    if isinstance(given, str):
        given = read_text(Path(given)).splitlines() if given.endswith(".txt") else [given]
    phrases = list(dict.fromkeys(text.strip() for text in map(str, given or ()) if text.strip()))
    if not phrases:
        raise CapabilityError(f"{use.run.shown}: {NO_PHRASE}")
    return phrases


def maps_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row per map, for a terminal."""
    table = Table()
    for name in ("image", "phrase", "finding", "the phrase says", "by the image", "highest at"):
        table.add_column(name, justify="right" if name in ("by the image", "highest at") else "left", overflow="fold")
    for row in rows:
        place = f"{row['x']}, {row['y']}"
        table.add_row(row["id"], row["phrase"], row["finding"], row["said"], f"{row['probability']:.1%}", place)
    return table
