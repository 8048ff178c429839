"""Drawn pairs of image and text, for tests of curators: topics of unequal size, copies, wrong and empty captions."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from ..contracts.curator import PairTable

FILES = TemporaryDirectory()
WORDS = ["dog", "cat", "car", "tree", "house", "boat", "bird", "horse"]
WIDTH = 16
OPTIONS: dict[str, Callable[[PairTable], dict[str, Any]]] = {
    "hype": lambda pairs: {"reference_images": drawn_file(4), "reference_texts": drawn_file(6), "curvature": 0.1},
    "laion": lambda pairs: {"file_bytes": 0},
    "clipcov": lambda pairs: {"classes": drawn_file(5)},
    "decontaminate": lambda pairs: {"tests": drawn_file(5)},
    "got-d": lambda pairs: {"target": drawn_file(9)},
    "m4": lambda pairs: {"attributes": "dog", "labels": "sixth", "words": drawn_words()},
    "metaclip": lambda pairs: {"metadata": drawn_entries(), "limit": 3},
    "removal": lambda pairs: {"ids": drawn_list("id-{:04d}", 5), "hashes": drawn_list("{:064x}", 7)},
    "image-based": lambda pairs: {"target": drawn_file(3)},
    "text-based": lambda pairs: {"entities": _written("entities.txt", "1\n3\n"), "synsets": drawn_synsets()},
}
"""Curator -> options without which it cannot run, such as targets; a test adds those of its own."""


def options_of_curator(name: str, pairs: PairTable) -> dict[str, Any]:
    """What a curator must be given in tests."""
    return OPTIONS.get(name, lambda pairs: {})(pairs)


def drawn_file(count: int) -> str:
    """A file of features, of classes or of targets."""
    path = Path(FILES.name) / f"rows-{count}.npy"
    np.save(path, np.random.default_rng(count).normal(size=(count, WIDTH)).astype(np.float32))
    return str(path)


def drawn_entries() -> str:
    """A file of entries."""
    return _written("words.txt", "\n".join([*WORDS, "photo of a cat", "number 3"]))


def drawn_synsets() -> str:
    """A file of words and the offset of their first synset, 1 for the first of `WORDS`."""
    return _written("synsets.tsv", "".join(f"{word}\t{number}\n" for number, word in enumerate(WORDS, start=1)))


def _written(name: str, text: str) -> str:
    path = Path(FILES.name) / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def drawn_list(pattern: str, step: int) -> str:
    """A file of every so many ids, or sums."""
    path = Path(FILES.name) / f"list-{step}.txt"
    path.write_text("".join(f"{pattern.format(number)}\n" for number in range(0, 200, step)))
    return str(path)


def drawn_words() -> str:
    """A file of flags and the words for them."""
    path = Path(FILES.name) / "words.json"
    path.write_text('{"dog": ["Dog"], "sixth": ["number 5", "number 6"]}', encoding="utf-8")
    return str(path)


def drawn_pairs(
    count: int = 120, *, seed: int = 0, shuffled: bool = False, rows: np.ndarray | None = None
) -> PairTable:
    """Pairs with features of a pretended encoder, texts, sizes, languages and hashes.

    Args:
        shuffled: whether they are given in another order.
        rows: only these, counted in the order of ids.
    """
    random = np.random.default_rng(seed)
    topics = random.normal(size=(len(WORDS), WIDTH))
    topic = np.minimum(random.geometric(0.35, count) - 1, len(WORDS) - 1)
    image = topics[topic] + 0.6 * random.normal(size=(count, WIDTH))
    caption = topics[topic] + 0.6 * random.normal(size=(count, WIDTH))
    for first in range(0, count - 1, 10):  # near copies
        image[first + 1] = image[first] + 0.01 * random.normal(size=WIDTH)
    hashes = np.random.default_rng([seed, 1]).integers(1, 2**64, count, dtype=np.uint64)
    hashes[1::10] = hashes[::10][: len(hashes[1::10])] ^ np.uint64(5)  # of the near copies
    wrong = random.random(count) < 0.2
    caption[wrong] = caption[random.permutation(np.flatnonzero(wrong))]
    texts = [f"a photo of a {WORDS[each]} number {number % 7}" for number, each in enumerate(topic)]
    texts = ["" if number % 17 == 5 else text for number, text in enumerate(texts)]
    columns = {
        "text": texts,
        "image_features": image.astype(np.float16),
        "caption_features": caption.astype(np.float16),
        "width": random.integers(150, 900, count),
        "height": random.integers(150, 900, count),
        "language": ["de" if number % 9 == 4 else "en" for number in range(count)],
        "sha256": [f"{number - (number % 23 == 7):064x}" for number in range(count)],
        "pixels_sha256": [f"{number - (number % 13 == 7):064x}" for number in range(count)],
        "phash": hashes,
        "itm": np.random.default_rng([seed, 2]).random(count),
    }
    ids = [f"id-{number:04d}" for number in range(count)]
    chosen = np.arange(count) if rows is None else rows
    if shuffled:
        chosen = random.permutation(chosen)
    held = {k: [v[i] for i in chosen] if isinstance(v, list) else v[chosen] for k, v in columns.items()}
    return PairTable.of([ids[i] for i in chosen], "drawn", **held)


STORED_WIDTH = 4
COUNT = 30


def jpeg(number: int, size: tuple[int, int] = (12, 9)) -> bytes:
    """A picture of noise, encoded."""
    image = Image.fromarray(np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path: Path, samples: Sequence[tuple[str, bytes | None, str | bytes | None]]) -> Path:
    """A tar of pairs.

    Args:
        samples: (key, image, text).
    """
    with tarfile.open(path, "w") as archive:
        for key, image, text in samples:
            for ending, content in (("jpg", image), ("txt", text.encode() if isinstance(text, str) else text)):
                if content is not None:
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return path


def _lists(rows: np.ndarray, there: np.ndarray | None = None) -> Any:
    import pyarrow as pa

    return pa.array([row if there is None or there[n] else None for n, row in enumerate(rows)], pa.list_(pa.float16()))


def write_features(
    folder: Path,
    ids: Sequence[str],
    image: np.ndarray,
    caption: np.ndarray,
    encoder: str | Sequence[str] = "abc",
    there: np.ndarray | None = None,
    size: int = 10,
) -> Path:
    """Shards of features, as `embed --as parquet` writes them.

    Args:
        there: (N,) flags of the captions that there are.
        size: of a shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    encoders = [encoder] * len(ids) if isinstance(encoder, str) else encoder
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        columns = {
            "id": pa.array(ids[rows]),
            "image_features": _lists(list(image[rows].astype(np.float16))),
            "caption_features": _lists(list(caption[rows].astype(np.float16)), None if there is None else there[rows]),
            "encoder": pa.array(encoders[rows]),
        }
        pq.write_table(pa.table(columns), folder / f"part-{start:08d}.parquet")
    return folder


def write_pairs(root: Path) -> dict[str, Any]:
    """Two tars of 30 pairs in `root/shards`, and in `root/features` features of them in another order; every fifth pair
    has no text."""
    samples = [(f"{n:03d}", jpeg(n, (20 + n, 10)), f"text {n}" if n % 5 else None) for n in range(COUNT)]
    (root / "shards").mkdir()
    write_tar(root / "shards" / "b.tar", samples[:20])
    write_tar(root / "shards" / "a.tar", samples[20:])
    ids = [f"b:{n:03d}" for n in range(20)] + [f"a:{n:03d}" for n in range(20, COUNT)]
    random = np.random.default_rng(0)
    order = random.permutation(COUNT)
    image, caption = random.normal(size=(2, COUNT, STORED_WIDTH))
    write_features(root / "features", [ids[n] for n in order], image[order], caption[order], there=order % 5 != 0)
    return {"root": root, "ids": ids, "image": image, "caption": caption}
