"""A pool of captions without regard to their images: a text file, or whatever image-text pairs are read from."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..runtime.reading import read_bytes

PLAIN = (".txt",)


def read_caption_pool(path: str | Path) -> tuple[str, ...]:
    """Every distinct caption, in the order of the file.

    Args:
        path: a .txt file with one caption per line, or anything `read_pairs` reads.

    Raises:
        DataError: no such file, not readable, or without a caption.
    """
    path = Path(path)
    texts = lines_of(path) if path.suffix.lower() in PLAIN else _of_pairs(path)
    pool = tuple(dict.fromkeys(text for text in (" ".join(text.split()) for text in texts) if text))
    if not pool:
        raise DataError(f"{path}: holds no caption; write one per line")
    return pool


def lines_of(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path, "give a .txt with one caption per line").decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8 with one caption per line") from None


def _of_pairs(path: Path) -> list[str]:
    from .pairs.reading import read_pairs

    return [text for pair in read_pairs(path) for text in pair.captions]
