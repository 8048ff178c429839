"""Images of other things that a run is tested on: folders and features files of the user, or drawn samples of other
domains, without what is a copy of the run's own images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..contracts.domain import Domain
from ..contracts.features import FeatureSet
from ..contracts.items import DomainData, Item
from ..contracts.judgement import JudgedClassifier
from ..contracts.prepared import PreparedData
from ..data.file_hashes import FileHashes
from ..data.near_copies import remembered_near_copies
from ..data.unlabelled import images_of
from ..data.verify import content_key, drop_unreadable
from ..errors import CapabilityError, ConfigError, DataError, shortened
from ..features.files import load_rows
from ..registry import catalogue, load_domain
from ..runtime.progress import Reporter

SAME_FEATURES = 1e-5
"""Cosine distance up to which two rows of features are of one image."""
ROWS_AT_ONCE = 2048
MOST_DRAWN = 100
"""Images of a sample: further ones are drawn by the same rules, and tell nothing new."""
FEATURES = (".npz", ".safetensors")
USAGE = "give NAME=FOLDER, as in --unlike near=DIR,far=DIR"


@dataclass(frozen=True)
class UnlikeSet:
    """Images of other things, by the backbone of the run as it was loaded.

    Attributes:
        prepared: where they are.
        features: (M, D).
        copies: how many of those that were drawn are copies of the run's images, and left out.
        unreadable: how many cannot be read.
    """

    prepared: PreparedData
    features: FeatureSet
    copies: int = 0
    unreadable: int = 0


def places_in(value: Any) -> dict[str, str]:
    """ "near=DIR,far=DIR" -> name -> path.

    Raises:
        ConfigError: it does not say such.
    """
    places: dict[str, str] = {}
    for part in re.split(r",(?=[^,=/]+=)", str(value)):
        name, _, path = (each.strip() for each in part.partition("="))
        if not name or not path:
            raise ConfigError(f"is not usable; {USAGE}")
        if name in places:
            raise ConfigError(f"has {shortened(name)} twice; give each set a name of its own")
        places[name] = path
    return places


def check_set_places(places: Mapping[str, str], own: DomainData) -> None:
    """Raise the DataError of a folder or file that there is not, and of a folder of nothing but files of the run's own
    data, before anything is computed. Other copies are found where images are read."""
    of_size: defaultdict[int, set[str]] = defaultdict(set)
    for item in own.items:
        if Path(item.source).is_file():
            of_size[Path(item.source).stat().st_size].add(str(item.source))
    hashes = FileHashes()
    for name, path in places.items():
        shown = f"--unlike {name}={path}"
        if not Path(path).exists():
            raise DataError(f"{shown}: no such folder or file; check the path")
        files = [each for each in Path(path).rglob("*") if each.is_file()]
        if files and all(
            any(hashes.sha256(each) == hashes.sha256(source) for source in of_size[each.stat().st_size])
            for each in files
        ):
            raise DataError(_all_copies(shown, len(files)))


def unlike_sets(places: Mapping[str, str], fit: JudgedClassifier, most: int | None) -> Iterator[tuple[str, UnlikeSet]]:
    """The user's sets, by name.

    Args:
        most: images of each, drawn by the seed of the run; None for all.

    Raises:
        DataError: nothing in one can be read, or all of it is of the run's own images. CapabilityError: features of
            another backbone, or a file where images are needed.
    """
    for name, path in places.items():
        shown = f"--unlike {name}={path}"
        yield name, (_rows_at if fit.before is None else _images_at)(path, shown, fit, most)


def drawn_samples(fit: JudgedClassifier, most: int | None) -> Iterator[tuple[str, UnlikeSet]]:
    """Up to `MOST_DRAWN` images of each packaged sample of a domain other than the run's, of classes that are none of
    the run's: of samples whose pixels are as those of the run's images (no clips for a run of pictures)."""
    prepared = fit.prepared
    own, first = prepared.domain, prepared.data.load(prepared.data.items[0])
    names = {name.casefold() for name in fit.class_names}
    for name, entry in catalogue.domains().items():
        if entry.entry_point or (own is not None and name == own.name):
            continue
        data = _sample_of(name)
        if data is None:
            continue
        others = [c for c, each in enumerate(data.class_names) if each.casefold() not in names]
        items = [item for item in data.items if item.class_label() in others]
        if items and _shape(data.load(items[0])) == _shape(first):
            some = _some(items, fit, min(most or MOST_DRAWN, MOST_DRAWN))
            drawn = data.with_items([item.with_(target=None) for item in some])
            yield f"{name} sample", UnlikeSet(*_features(drawn, fit))


def _sample_of(name: str) -> DomainData | None:
    """The packaged sample of a domain; None where its images have no classes, or its packages are not installed."""
    try:
        domain = load_domain(name)
        return domain.sample(domain.tasks[0]) if domain.tasks[0] == "classification" else None
    except CapabilityError:
        return None


def _shape(decoded: np.ndarray) -> tuple[int, int]:
    return decoded.ndim, decoded.shape[-1]


def _images_at(path: str, shown: str, fit: JudgedClassifier, most: int | None) -> UnlikeSet:
    if Path(path).suffix.lower() in FEATURES:
        raise CapabilityError(f"{shown}: this run is of images and encodes them itself; give a folder of images")
    domain = fit.prepared.domain
    assert isinstance(domain, Domain)
    try:
        data = images_of(domain, [path], fit.prepared.reading)
    except DataError as error:
        raise DataError(f"{shown}: {str(error).removeprefix(f'{path}: ')}") from error
    return _encoded(data, shown, fit, most)


def _encoded(data: DomainData, shown: str, fit: JudgedClassifier, most: int | None) -> UnlikeSet:
    """Some of the images, encoded as those of the run are, without copies of these."""
    hashes, before = FileHashes(), len(data.skipped)
    some = replace(data, items=_some(data.items, fit, most), tolerate=1.0, name=shown)
    read = drop_unreadable(some, hashes, workers=fit.workers)
    copies = _copies(read, fit.prepared.data, hashes)
    items = [item for item in read.items if item.id not in copies]
    if not items:
        raise DataError(_all_copies(shown, len(copies)))
    prepared, features = _features(read.with_items(items), fit)
    unreadable = len(read.skipped) - before + len(items) - len(features)
    return UnlikeSet(prepared, features, len(copies), unreadable)


def _some(items: Sequence[Item], fit: JudgedClassifier, most: int | None) -> list[Item]:
    """So many, drawn by the seed of the run."""
    return sorted(items, key=lambda item: item.rank(fit.seed))[:most]


def _features(data: DomainData, fit: JudgedClassifier) -> tuple[PreparedData, FeatureSet]:
    prepared = fit.prepared.again(data, Reporter(quiet=True))
    return prepared, prepared.features(data.items, "images of other things")


def _all_copies(shown: str, count: int) -> str:
    what = f"all {count} images" if count > 1 else "its image"
    are = "are images" if count > 1 else "is one"
    return f"{shown}: {what} {are} of the run's own data, so nothing is unlike them; give images of other things"


def _copies(data: DomainData, own: DomainData, hashes: FileHashes) -> set[str]:
    """Ids of images that are in another set too: the same, or near copies of such."""
    keys_of_own = {key for item in own.items if (key := _key(item, hashes))}
    keys = {item.id: key for item in data.items if (key := _key(item, hashes))}
    copies = {key for key in keys.values() if key in keys_of_own}
    if data.thumbnails is not None:
        every = sorted({*keys_of_own, *keys.values()})
        for pair in remembered_near_copies(every, data.thumbnails, np.arange(len(every))):
            one, other = (every[place] for place in pair)
            copies |= {a for a, b in ((one, other), (other, one)) if b in keys_of_own and a not in keys_of_own}
    return {name for name, key in keys.items() if key in copies}


def _key(item: Any, hashes: FileHashes) -> str:
    """Of what an image shows; "" where its file is gone."""
    try:
        return content_key(item, hashes)
    except DataError:
        return ""


def _rows_at(path: str, shown: str, fit: JudgedClassifier, most: int | None) -> UnlikeSet:
    """Rows of a features file of the same backbone."""
    prepared, own = fit.prepared, fit.test
    try:
        rows, ids, made_by = load_rows(path, "image_features")
    except DataError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{shown}: this run is of a features file, and needs another one to compare: {why}") from error
    ours = prepared.made_by or fit.adapter.backbone_
    if made_by != ours:
        theirs = f"was made by backbone {made_by}" if made_by else "does not say which backbone made it"
        whose = f"those of the run by {ours}" if ours else "nor is it said of the run's"
        raise CapabilityError(f"{shown}: {theirs}, {whose}; give features of the run's backbone")
    if rows.shape[1] != own.features.shape[1]:
        raise DataError(
            f"{shown}: its features have {rows.shape[1]} numbers, those of the run {own.features.shape[1]}; give "
            "features of the run's backbone"
        )
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(fit.seed))[:most].sort().values
    features = torch.from_numpy(rows)[drawn].to(own.features.device)
    every = prepared.features(prepared.data.items, "images of the run").features
    copies = _nearest(features, every) < SAME_FEATURES
    if copies.all():
        raise DataError(_all_copies(shown, len(copies)))
    of = [str(row) if ids is None else ids[row] for row in drawn[~copies.cpu()].tolist()]
    unlike = FeatureSet(features[~copies], ids=tuple(of), backbone=made_by, raw_norms=own.raw_norms)
    return UnlikeSet(prepared, unlike, int(copies.sum()))


def _nearest(features: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(N,) cosine distance to the nearest of others."""
    unit, least = F.normalize(features.double(), dim=1), torch.full((len(features),), torch.inf, dtype=torch.float64)
    for start in range(0, len(others), ROWS_AT_ONCE):
        some = F.normalize(others[start : start + ROWS_AT_ONCE].double(), dim=1)
        least = torch.minimum(least.to(unit.device), (1 - unit @ some.T).amin(dim=1))
    return least
