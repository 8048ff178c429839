"""Published selections of clips: the lists of 2, 4, 8 and 16 clips per class that X-CLIP and ViFi-CLIP learn from.

"Expanding Language-Image Pretrained Models for General Video Recognition" (Ni et al., 2022, arXiv 2208.02816) and
"Fine-tuned CLIP Models are Efficient Video Learners" (Rasheed et al., 2023, arXiv 2212.03640) publish
`train1_few_shot_2.txt` and the like for HMDB51, UCF101 and Something-Something v2: a clip and a number per line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...core.contracts import DomainData
from ...core.data import with_lists
from ...core.errors import DataError
from .clips import VIDEO_SUFFIXES
from .finding import LIST_FOLDERS, read_list

if TYPE_CHECKING:
    from .reading import VideoReading


def with_shot_lists(data: DomainData, path: Path, reading: VideoReading) -> DomainData:
    """The set whose train or val split are the clips of `train_list` or `val_list`, by their names; their classes are
    those of the set.

    Args:
        path: of the set; a list that is not where its name says is looked for there.

    Raises:
        DataError: there is no such list, or as of `with_lists`.
    """
    lists = {"train": reading.train_list, "val": reading.val_list}
    lists = {split: None if file is None else str(_found(file, path, split)) for split, file in lists.items()}

    def names(file: Path) -> list[str]:
        return [each.name for each in read_list(file, reading, captions=False).annotations if each.split != "test"]

    return with_lists(data, lists, names, _without_suffix)


def _found(file: str, path: Path, split: str) -> Path:
    """A list where it is, or else beside or in the set."""
    folder = path if path.is_dir() else path.parent
    for place in (Path(file), *(folder / name / file for name in LIST_FOLDERS)):
        if place.is_file():
            return place
    raise DataError(f"--set data.{split}_list={file}: no such file, nor one in {folder}; give the path of the list")


def _without_suffix(name: str) -> str:
    """A clip's name as lists and sets have it alike, whatever the files are encoded as."""
    name = name.replace("\\", "/").strip()
    suffix = next((suffix for suffix in VIDEO_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
