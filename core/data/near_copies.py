"""Near copies: one image resized, re-encoded, marked with text, of another brightness or contrast, mirrored, turned by
quarters, or cut by some percent at its edges, told from thumbnails.

Candidates are the nearest neighbours by a perceptual hash: the lowest frequencies of the discrete cosine transform of
the equalised thumbnail, as in pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010), kept as numbers and not as signs, and in a form that the symmetries of the square leave unchanged. Copies are
told by registering the thumbnails (`registration.py`). How far they must agree depends on the set: where images look
alike, as X-rays do, different ones agree too, and copies must by more. An image that is flat, or shows something in a
few of its parts alone, has nothing by which copies could be told, and has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.items import ThumbnailStore
from ..runtime.files import write_cached
from .hamming import near_pairs
from .nearest import PointCells, nearest_points
from .thumbnails import (
    COMPARED,
    NO_AGREEMENT,
    NO_HASH,
    SYMMETRIES,
    TRIMMED,
    Pictures,
    PreparedThumbnails,
    agreements,
    cut_spectra,
    cut_view,
    half_view,
    low_spectra,
    perceptual_hashes,
    same_colours,
    shows_enough,
    spectral_likeness,
    turned_spectra,
)

Candidates = Iterator[tuple[np.ndarray, np.ndarray]]
"""Rows (n,), and others (n, k) that are near to each."""
VERSION = 9
"""Of the pairs that are kept: another number has all found anew."""
DIGEST_BYTES = 32
SEARCHED, DIMENSIONS, RIDGE = 6, 24, 0.1
"""Frequencies in each direction, and discriminants, that are searched by; share of noise in the scatter of copies."""
SEARCHED_WHOLE, NEIGHBOURS = 20_000, 8
"""Images up to which each is compared with all others, and how many of these are candidates."""
CELLS, CELLS_OF_VIEW, VISITS = 6, 3, 150_000
"""Of more images, the cells in which candidates are looked for; and visits of a cell that are made in any case, so that
smaller sets are searched more thoroughly in the same time, by halves too."""
OF_CELL, OF_CELL_OF_VIEW = 3, 2
"""Candidates in one cell."""
LEAST_LIKENESS = 0.7
"""Cosine of the low spectra of a copy, its edges cut or marked, and the image itself."""
CHANGED, CHANGED_VIEW = 100.0, 50.0
"""Squared Mahalanobis distance of most copies, by how far cutting changes the images of a set; of most from an image
that is cut in a like way."""
MOST_COMPARED, MOST_DOUBTFUL, DOUBTFUL_IF_LARGE = 100_000, 10_000, 3_000
"""Pairs that are registered, the nearest and the most alike ones; how many more than are near by `CHANGED`, which falls
with the size of large sets; and how many more in the largest ones."""
TURNS = 2
"""Symmetries that are tried for a pair: that of a picture near its own mirror image is not certain."""
AT_ONCE, LIKENED_AT_ONCE = 256, 1024
SAMPLE, LEAST_PAIRS = 256, 40
"""Images among whose neighbours is seen how far different images agree, and how many pairs that takes."""
LEAST_AGREEMENT, MOST_ASKED = (1.1, 1.1, 2.6, 2.6), (2.5, 2.5, 3.0, 3.5)
"""Of copies, in each of the numbers of `agreements`, whatever the set."""
NEIGHBOURS_UP_TO = 200_000
"""Images in a set whose nearest neighbours are looked for; those of larger ones are told by their hashes."""
HASH_BITS, SMALL, MOST_CANDIDATES = 4, 8, 2_000_000
"""In which hashes of copies differ at most; images of one hash up to which each is compared with each; pairs that are
held."""
MISTAKEN = 0.01
"""How many pairs of different images may be expected to agree by chance."""


def near_copies(keys: Sequence[str], thumbnails: ThumbnailStore, apart: np.ndarray | None = None) -> np.ndarray:
    """Pairs of near copies among some images, (M, 2) positions, the smaller first.

    Held in memory are a kilobyte per image and the thumbnails of some candidates. Which of the images are the sample by
    which a set is known depends on their order.

    Args:
        keys: N content keys, each once; those without a thumbnail have no copies.
        thumbnails: where they are kept.
        apart: (N,) numbers; images of the same number are not compared, since they belong together anyway.
    """
    position = {key: place for place, key in enumerate(keys)}
    low = np.zeros((len(keys), COMPARED, COMPARED), dtype=np.float32)
    telling = np.zeros(len(keys), dtype=bool)
    for content_keys, pictures in thumbnails.find(keys):
        places, tell = np.array([position[key] for key in content_keys], dtype=np.int64), shows_enough(pictures.grey)
        telling[places[tell]] = True
        low[places[tell]] = low_spectra(pictures.grey[tell])
    place = np.flatnonzero(telling)
    low = low if telling.all() else low[place]
    if len(place) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    apart = np.arange(len(place)) if apart is None else np.asarray(apart)[place]
    sample = np.linspace(0, len(place) - 1, min(SAMPLE, len(place))).astype(int)
    pictures = _pictures([keys[n] for n in place[sample]], thumbnails)
    cuts = [low[sample], *cut_spectra(pictures.grey)]
    axes = _axes(_invariants(low[:: -(-len(low) // SEARCHED_WHOLE)]), list(map(_invariants, cuts)))
    points = _in_parts(_points, low, axes)
    some = _as_pairs(_neighbours(points[sample]), apart[sample])
    agreed = _agreements_of(some, *_turns(sample[some], low), pictures, of_sample=True)
    least = _least_agreements(agreed, len(place))
    near = _candidates(points, axes, low, cuts) if len(points) > SEARCHED_WHOLE else _neighbours(points)
    return _copies_among(_as_pairs(near, apart), place, low, keys, thumbnails, least, _whitening(cuts))


def near_copies_by_hash(keys: Sequence[str], thumbnails: ThumbnailStore, apart: np.ndarray | None = None) -> np.ndarray:
    """As `near_copies`, of sets of any size: candidates are images whose perceptual hashes of 64 bits differ in a few,
    as those of the curator `near` are. Mirrored images and such whose edges are cut have other hashes.

    Held in memory are a few numbers per image, and a quarter of a kilobyte of each candidate.

    Args:
        keys, thumbnails, apart: as there.

    Raises:
        CapabilityError: faiss is not installed.
    """
    position = {key: place for place, key in enumerate(keys)}
    hashes = np.full(len(keys), NO_HASH, np.uint64)
    for content_keys, pictures in thumbnails.find(keys):
        hashes[[position[key] for key in content_keys]] = perceptual_hashes(pictures.grey)
    place = np.flatnonzero(hashes != NO_HASH)
    apart = np.arange(len(keys)) if apart is None else np.asarray(apart)
    pairs = _of_near_hashes(hashes[place], apart[place])
    if not len(pairs):
        return np.zeros((0, 2), dtype=np.int64)
    sample = place[np.linspace(0, len(place) - 1, min(SAMPLE, len(place))).astype(int)]
    pictures = _pictures([keys[n] for n in sample], thumbnails)
    low = low_spectra(pictures.grey)
    cuts = [low, *cut_spectra(pictures.grey)]
    points = _points(low, _axes(_invariants(low), list(map(_invariants, cuts))))
    some = _as_pairs(_neighbours(points), apart[sample])
    agreed = _agreements_of(some, *_turns(some, low), pictures, of_sample=True)
    members, rows = np.unique(place[pairs], return_inverse=True)
    low = np.zeros((len(members), COMPARED, COMPARED), np.float32)
    row_of = {keys[place]: row for row, place in enumerate(members)}
    for content_keys, pictures in thumbnails.find(list(row_of)):
        low[[row_of[key] for key in content_keys]] = low_spectra(pictures.grey)
    least = _least_agreements(agreed, len(place))
    return _copies_among(rows.reshape(pairs.shape), members, low, keys, thumbnails, least, _whitening(cuts))


def _of_near_hashes(hashes: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """(M, 2) rows whose hashes differ in a few bits, those that differ least where there are too many; the smaller row
    first."""
    chosen, bits = np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    for one, other, distance in near_pairs(hashes, HASH_BITS, SMALL):
        pairs = np.sort(np.stack([one, other], axis=1), axis=1)
        open_ = apart[pairs[:, 0]] != apart[pairs[:, 1]]
        chosen, bits = np.concatenate([chosen, pairs[open_]]), np.concatenate([bits, distance[open_]])
        if len(chosen) > MOST_CANDIDATES:
            nearest = np.lexsort((chosen[:, 1], chosen[:, 0], bits))[: MOST_CANDIDATES // 2]
            chosen, bits = chosen[nearest], bits[nearest]
    return np.unique(chosen, axis=0)


def _copies_among(
    pairs: np.ndarray,
    place: np.ndarray,
    low: np.ndarray,
    keys: Sequence[str],
    thumbnails: ThumbnailStore,
    least: np.ndarray,
    whitening: np.ndarray,
) -> np.ndarray:
    """(M, 2) positions of the pairs that are copies, of those of the least distance.

    Args:
        pairs: rows of `place` and of `low`.
        least: of `_least_agreements`.
        whitening: of `_whitening`.
    """
    turns, likeness = _turns(pairs, low)
    distances = np.full(turns.shape, np.inf, dtype=np.float32)
    for turn in range(TURNS):
        likely = np.flatnonzero(likeness[:, turn] >= LEAST_LIKENESS)
        for start in range(0, len(likely), LIKENED_AT_ONCE):
            some = likely[start : start + LIKENED_AT_ONCE]
            first, second = low[pairs[some]].swapaxes(0, 1)
            change = (turned_spectra(first, turns[some, turn]) - second).reshape(len(some), -1)
            distances[some, turn] = np.square(change @ whitening).sum(axis=1)
    distances = distances.min(axis=1)
    rank = np.full(len(pairs), len(pairs))
    for order in (np.argsort(distances, kind="stable"), np.argsort(-likeness[:, 0], kind="stable")):
        rank[order] = np.minimum(rank[order], np.arange(len(order)))
    doubtful = min(MOST_DOUBTFUL, max(DOUBTFUL_IF_LARGE, MOST_DOUBTFUL * SEARCHED_WHOLE // len(low)))
    most = min(MOST_COMPARED, np.count_nonzero(distances <= CHANGED) + doubtful)
    likely = np.sort(np.argsort(rank, kind="stable")[:most])
    likely = likely[np.isfinite(distances[likely])]
    return _confirmed(place[pairs[likely]], turns[likely], likeness[likely], keys, thumbnails, least)


def remembered_near_copies(keys: Sequence[str], thumbnails: ThumbnailStore, apart: np.ndarray) -> np.ndarray:
    """As `near_copies`, or of large sets `near_copies_by_hash`, kept beside the thumbnails under a digest of all that
    the pairs depend on.

    That is the keys, which of them have a thumbnail, and which are not compared. A damaged file counts as none.

    Raises:
        CacheError: the pairs cannot be written.
    """
    lacking = thumbnails.missing(keys)
    seen = np.array([key not in lacking for key in keys], dtype=np.uint8)
    first = np.unique(apart, return_index=True, return_inverse=True)
    together = first[1][first[2]].astype("<i8")  # each number as the place of the first image that has it
    by_hash = len(keys) > NEIGHBOURS_UP_TO
    kind = f"near copies {VERSION}{' by hash' if by_hash else ''}\n"
    digest = hashlib.sha256(kind.encode() + "\n".join(keys).encode())
    digest.update(seen.tobytes() + together.tobytes())
    path = thumbnails.root / "near-copies" / f"{digest.hexdigest()}.pairs"
    pairs = _kept_pairs(path, len(keys))
    if pairs is None:
        pairs = (near_copies_by_hash if by_hash else near_copies)(keys, thumbnails, apart)
        rows = pairs.astype("<i8").tobytes()
        write_cached(path, hashlib.sha256(rows).digest() + rows)
    return pairs


def _kept_pairs(path: Path, count: int) -> np.ndarray | None:
    """(M, 2) positions among so many images; None where they are not kept, or not as they were written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    check, rows = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(rows).digest() != check or len(rows) % 16:
        return None
    pairs = np.frombuffer(rows, dtype="<i8").reshape(-1, 2).astype(np.int64)
    return pairs if not pairs.size or (pairs.min() >= 0 and pairs.max() < count) else None


def _candidates(points: np.ndarray, axes: np.ndarray, low: np.ndarray, cuts: Sequence[np.ndarray]) -> Candidates:
    """Rows of a large set, and others near to each: to the image, to the image with its edges cut, and in sets that are
    not too large to one of its halves, since a mark leaves the other as it was.

    What counts as near shrinks with the set, as the distance of the nearest different image does.

    Args:
        points, axes: (N, 24), and by which they are made of invariants.
        low: (N, 8, 8) spectra.
        cuts: as of `_whitening`.
    """
    import torch  # slow to import, and kept pairs do without

    shrunk, visits = (SEARCHED_WHOLE / len(points)) ** (1 / 3), VISITS // len(points)
    cells = PointCells(torch.from_numpy(points))
    near = cells.near(CHANGED * shrunk, OF_CELL, max(CELLS, visits))
    yield near[0].numpy(), near[1].numpy()[:, None]
    points = _in_parts(_points_of_cut, low, TRIMMED, axes)
    near = cells.near(CHANGED_VIEW * shrunk, OF_CELL_OF_VIEW, max(CELLS_OF_VIEW, visits), torch.from_numpy(points))
    yield near[0].numpy(), near[1].numpy()[:, None]
    del cells
    if visits:
        halves = _of_halves(low)
        points = halves @ _axes(halves, list(map(_of_halves, cuts)))
        near = PointCells(torch.from_numpy(points)).near(CHANGED_VIEW * shrunk, OF_CELL_OF_VIEW, visits)
        yield near[0].numpy() % len(low), near[1].numpy()[:, None] % len(low)


def _neighbours(points: np.ndarray) -> Candidates:
    """Each of a smaller set, and those that are nearest."""
    import torch

    yield np.arange(len(points)), nearest_points(torch.from_numpy(points), NEIGHBOURS + 1).numpy()


def _as_pairs(near: Candidates, apart: np.ndarray) -> np.ndarray:
    """(M, 2) each pair once, the smaller row first, those that belong together left out."""
    count, numbers = len(apart), []
    for rows, others in near:
        numbers.append((np.minimum(rows[:, None], others) * count + np.maximum(rows[:, None], others)).ravel())
    every = np.sort(np.concatenate(numbers))  # faster than `np.unique` of millions
    pairs = np.stack(np.divmod(every[np.diff(every, prepend=-1) > 0], count), axis=1)
    return pairs[apart[pairs[:, 0]] != apart[pairs[:, 1]]]


def _invariants(low: np.ndarray) -> np.ndarray:
    """(N, 35) of low spectra: what the symmetries of the square leave as it is.

    A mirror image changes the signs of odd frequencies, a quarter turn also swaps rows and columns. So odd ones count
    by their size, and of two that are swapped the larger comes first. Two images are never further apart by these
    numbers than by their spectra.
    """
    rows, columns = np.triu_indices(SEARCHED)
    odd = (rows % 2 == 1) | (columns % 2 == 1)
    one, other = low[:, rows, columns], low[:, columns, rows]
    one[:, odd], other[:, odd] = np.abs(one[:, odd]), np.abs(other[:, odd])
    return np.concatenate([np.maximum(one, other)[:, 1:], np.minimum(one, other)[:, rows != columns]], axis=1)


def _points(low: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return _invariants(low) @ axes


def _points_of_cut(low: np.ndarray, scale: float, axes: np.ndarray) -> np.ndarray:
    return _invariants(cut_view(low, scale)) @ axes


def _of_halves(low: np.ndarray) -> np.ndarray:
    """(2 N, 35) of the upper halves of images, then of the lower ones: what a mirror leaves of their low spectra."""
    halves = np.zeros((2 * len(low), SEARCHED**2 - 1), dtype=np.float32)
    for start, lower in ((0, False), (len(low), True)):
        halves[start : start + len(low)] = _in_parts(_half_invariants, low, lower)
    return halves


def _half_invariants(low: np.ndarray, lower: bool) -> np.ndarray:
    searched = half_view(low, lower)[:, :SEARCHED, :SEARCHED].copy()
    searched[:, :, 1::2] = np.abs(searched[:, :, 1::2])
    return searched.reshape(len(low), -1)[:, 1:]


def _in_parts(of: Callable[..., np.ndarray], low: np.ndarray, *more: Any) -> np.ndarray:
    """A function of low spectra, of a few at a time."""
    starts = range(0, len(low), LIKENED_AT_ONCE)
    return np.concatenate([of(low[start : start + LIKENED_AT_ONCE], *more) for start in starts])


def _axes(invariants: np.ndarray, cuts: Sequence[np.ndarray]) -> np.ndarray:
    """(35, 24) by which a set's images differ most, for how far cutting an image changes them: linear discriminant
    analysis.

    Args:
        invariants: (N, 35) of the images, or of some.
        cuts: (n, 35) of some of the images, then of these with their edges cut, in one way after the other.
    """
    from scipy.linalg import eigh  # SciPy is slow to import, and kept pairs do without

    change = np.concatenate([cut - cuts[0] for cut in cuts[1:]]).astype(np.float64)
    within = change.T @ change / len(change)
    within += (RIDGE * np.trace(within) / len(within) + 1e-9) * np.eye(len(within))
    centre, total = invariants.mean(axis=0), np.zeros_like(within)
    for start in range(0, len(invariants), LIKENED_AT_ONCE):
        centred = invariants[start : start + LIKENED_AT_ONCE] - centre
        total += centred.T @ centred / len(invariants)
    return eigh(total, within)[1][:, : -DIMENSIONS - 1 : -1].astype(np.float32)


def _whitening(cuts: Sequence[np.ndarray]) -> np.ndarray:
    """(64, 64): by it cutting changes the low spectra of a set's images, turned by any symmetry, by as much in each
    direction.

    Args:
        cuts: (n, 8, 8) spectra of some of the images, then of these with their edges cut, in one way after the other.
    """
    changes = np.concatenate([cut - cuts[0] for cut in cuts[1:]])
    each = [turned_spectra(changes, np.full(len(changes), turn)) for turn in range(SYMMETRIES)]
    changes = np.concatenate(each).reshape(-1, COMPARED**2).astype(np.float64)
    scatter = changes.T @ changes / len(changes)
    scatter += (RIDGE * np.trace(scatter) / (len(scatter) - 1) + 1e-9) * np.eye(len(scatter))  # the mean is left out
    return np.linalg.cholesky(np.linalg.inv(scatter)).astype(np.float32)


def _turns(pairs: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair the symmetries by which it is the most alike, the most so first, and how much; both (M, 2)."""
    likeness, turns = np.zeros((len(pairs), TURNS), dtype=np.float32), np.zeros((len(pairs), TURNS), dtype=np.int64)
    for start in range(0, len(pairs), LIKENED_AT_ONCE):
        some = slice(start, start + LIKENED_AT_ONCE)
        each = spectral_likeness(low[pairs[some, 0]], low[pairs[some, 1]])  # (8, n)
        turns[some] = np.argsort(-each, axis=0, kind="stable")[:TURNS].T
        likeness[some] = np.take_along_axis(each, turns[some].T, axis=0).T
    return turns, likeness


def _least_agreements(agreed: np.ndarray, count: int) -> np.ndarray:
    """(4,) from which on two images of a set are copies.

    Neighbours within a sample are nearly all different images. How far these agree is told from the median and the
    lower side, where no copy is; copies must agree further than any of so many pairs would by chance.

    Args:
        agreed: (4, M) agreements of neighbours within a sample.
        count: images in the set.
    """
    from scipy.special import ndtri

    least, deviations = np.array(LEAST_AGREEMENT), -ndtri(MISTAKEN / (NEIGHBOURS * count))
    for number, values in enumerate(agreed):
        values = values[values > NO_AGREEMENT]
        if len(values) >= LEAST_PAIRS:
            lower, middle = np.quantile(values, (0.16, 0.5))
            least[number] = np.clip(middle + deviations * (middle - lower), least[number], MOST_ASKED[number])
    return least


def _confirmed(
    pairs: np.ndarray,
    turns: np.ndarray,
    likeness: np.ndarray,
    keys: Sequence[str],
    thumbnails: ThumbnailStore,
    least: np.ndarray,
) -> np.ndarray:
    """Those of the pairs whose thumbnails agree, turned by a symmetry by which they are alike."""
    agreeing = [pairs[:0]]
    for start in range(0, len(pairs), 64 * AT_ONCE):
        some = slice(start, start + 64 * AT_ONCE)
        places, rows = np.unique(pairs[some], return_inverse=True)
        pictures = _pictures([keys[place] for place in places], thumbnails)
        reached = _agreements_of(rows.reshape(-1, 2), turns[some], likeness[some], pictures)
        agreeing.append(pairs[some][(reached >= least[:, None]).any(axis=0)])
    return np.concatenate(agreeing)


def _agreements_of(
    pairs: np.ndarray,
    turns: np.ndarray,
    likeness: np.ndarray,
    every: Pictures,
    of_sample: bool = False,
) -> np.ndarray:
    """(4, M) the best of each pair's symmetries; `NO_AGREEMENT` by one by which their spectra are unlike or their
    colours differ.

    Args:
        pairs: (M, 2) rows of the pictures.
        of_sample: neither counts: of neighbours whose colours agree, those that are copies would be the most.
    """
    best = np.full((4, len(pairs)), -np.inf)
    for start in range(0, len(pairs), AT_ONCE):
        used, own = np.unique(pairs[start : start + AT_ONCE], return_inverse=True)
        prepared, own = PreparedThumbnails.of(every.take(used)), own.reshape(-1, 2)
        for turn in range(TURNS):
            some = np.flatnonzero(of_sample | (likeness[start : start + AT_ONCE, turn] >= LEAST_LIKENESS))
            if len(some):
                at, (first, second) = start + some, own[some].T
                one, other = prepared.take(first).turned(turns[at, turn]), prepared.take(second)
                agreed = agreements(one, other, likeness[at, turn])
                if not of_sample:
                    agreed[:, ~same_colours(one.colour, other.colour)] = NO_AGREEMENT
                best[:, at] = np.maximum(best[:, at], agreed)
    return best


def _pictures(keys: Sequence[str], thumbnails: ThumbnailStore) -> Pictures:
    """The thumbnails of some keys, all of which have one, in their order."""
    row_of: dict[str, int] = {}
    parts: list[Pictures] = []
    for content_keys, pictures in thumbnails.find(keys):
        row_of.update({key: len(row_of) + n for n, key in enumerate(content_keys)})
        parts.append(pictures)
    every = Pictures(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("grey", "colour", "sides")))
    return every.take(np.array([row_of[key] for key in keys]))
