"""Every reader, on mutations of valid files: it reads them, skips what it cannot, or ends in one of our errors."""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import signal
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import mutations
import numpy as np
import pytest
import valid_people
import valid_photos
import valid_rasters
import valid_reports
import valid_sets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vladapt.core.contracts.items import DomainData
from vladapt.core.errors import LONGEST_MESSAGE, VladaptError

MOST_S = 20
"""Seconds that one read may take."""
EXAMPLES = int(os.environ.get("VLADAPT_FUZZ", "0"))
DECODED = 6
"""Items of a set that are decoded."""

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Reader:
    """Args:
    make: valid files in a folder -> those that are mutated.
    read: reads the folder, given the mutated file.
    examples: in the usual suite.
    """

    make: Callable[[Path], list[Path]]
    read: Read
    examples: int = 10


def _any(file: Path) -> DomainData:
    from vladapt.core.data.detect import read_any

    return read_any(file)


def _folder_of(name: str = "data") -> Read:
    def read(file: Path) -> DomainData:
        from vladapt.core.data.detect import read_any

        return read_any(_root(file) / name)

    return read


def _medical_folder(file: Path) -> DomainData:
    from vladapt.domains.medical import Medical

    return Medical().read(_root(file) / "data")


def _slides(file: Path, **options: str) -> DomainData:
    from vladapt.domains.medical import Medical

    return Medical().read(_root(file) / "data", unit="slide", tile=32, **options)


def _slides_in_regions(file: Path) -> DomainData:
    return _slides(file, regions=str(_root(file) / "regions"))


def _medical_file(file: Path) -> DomainData:
    from vladapt.domains.medical import Medical

    return Medical().read(file)


def _radiographs(file: Path) -> DomainData:
    from vladapt.domains.medical import Medical
    from vladapt.domains.medical.layouts.published import published_layout, read_layout
    from vladapt.domains.medical.reading import MedicalReading

    if (layout := published_layout(file.parent)) is not None and layout.objects is not None:
        read_layout(layout, file.parent, MedicalReading(), "detection")
    return Medical().read(file.parent)


def _unlabelled(file: Path) -> DomainData:
    from vladapt.domains.medical import Medical

    return Medical().read_images([file])


def _features(file: Path) -> object:
    from vladapt.core.features.files import load_features

    return load_features(file)


def _sent_bag(file: Path) -> object:
    from vladapt.core.data.sent_bags import SentBag

    return SentBag(file, 4, 1 << 20).read()


def _pairs(file: Path) -> object:
    from vladapt.core.data.pairs.reading import read_pairs

    pairs = read_pairs(file)
    for index in range(min(DECODED, len(pairs))):
        with _ours():
            pairs.load_image(index)
    return pairs


def _in_a_row(file: Path) -> None:
    from vladapt.core.data.pairs.shard_reader import ShardRun
    from vladapt.core.data.pairs.shard_set import HeldOut, read_shard_set

    train, _, _ = read_shard_set(str(file), HeldOut(1, 0), seed=0, cache=file.parent / "cache", max_pixels=10**6)
    samples = dict(enumerate(train.reader().read(ShardRun(0, int(train.firsts[0]), int(train.counts[0])))))
    block = train.block_of(samples)
    for row in range(min(DECODED, len(block))):
        with _ours():
            block.load_image(row)
        with _ours():
            block[row].captions[0].encode()
        block.id(row).encode()


def _pairs_in_folder(file: Path) -> object:
    return _pairs(_root(file))


def _captions(file: Path) -> object:
    from vladapt.core.data.caption_pool import read_caption_pool

    return read_caption_pool(file)


def _detections(file: Path) -> object:
    from vladapt.core.data.detections import read_detections

    return read_detections(file, ["0.png", "1.png", "2.png"])


def _words(file: Path) -> None:
    from vladapt.core.prompts import descriptions

    for read in (descriptions.read_descriptions, descriptions.read_synonyms, descriptions.read_pair_attributes):
        with _ours():
            read(file, ["cat", "dog"])
    with _ours():
        descriptions.read_word_sentences(file)


def _vocabulary(file: Path) -> object:
    pytest.importorskip("mmdet")
    from vladapt.domains.open_vocab.vocabulary import Vocabulary

    return Vocabulary.of(file)


def _recipe(file: Path) -> object:
    from vladapt.core.recipes.resolve import resolve

    return resolve(config=file)


def _detection(file: Path) -> DomainData:
    pytest.importorskip("mmdet")
    from vladapt.domains.open_vocab.data import read_detection

    return read_detection(file if file.suffix == ".json" else _root(file))


def _segmentation(file: Path) -> DomainData:
    pytest.importorskip("mmdet")
    from vladapt.domains.open_vocab.data import read_segmentation

    return read_segmentation(file if file.name == "instances.json" else _root(file))


def _items(file: Path) -> DomainData:
    pytest.importorskip("mmdet")
    from vladapt.domains.open_vocab.data import read_items

    return read_items(file)


def _items_file(folder: Path) -> list[Path]:
    pytest.importorskip("mmdet")
    from vladapt.domains.open_vocab.data import read_detection, read_segmentation, write_items

    (coco,) = valid_sets.coco(folder)
    found, masked = folder / "found.json", folder / "masked.json"
    write_items(found, read_detection(coco))
    write_items(masked, read_segmentation(coco))
    return [found, masked]


def _photos(file: Path) -> DomainData:
    from vladapt.domains.natural import Natural

    return Natural().read(_root(file) / "data")


def _from_above(file: Path, **options) -> DomainData:
    from vladapt.domains.remote_sensing import RemoteSensing

    return RemoteSensing().read(_root(file) / "data", block_size=0, **options)


def _rasters(file: Path) -> DomainData:
    pytest.importorskip("rasterio")
    return _from_above(file, bands="1")


def _rasters_made(folder: Path) -> list[Path]:
    pytest.importorskip("rasterio")
    return valid_rasters.rasters(folder)


def _layers_made(folder: Path) -> list[Path]:
    pytest.importorskip("pyogrio")
    return valid_rasters.layers(folder)


def _windows(file: Path) -> DomainData:
    from vladapt.domains.remote_sensing import RemoteSensing

    how = {"labels": str(file), "window_size": 16, "block_size": 320.0}
    return RemoteSensing().read(_root(file) / "field.tif", **how)


def _captioned(file: Path) -> DomainData:
    from vladapt.domains.remote_sensing import RemoteSensing

    return RemoteSensing().read(file, "retrieval")


def _oriented(file: Path) -> DomainData:
    pytest.importorskip("mmdet")
    return _from_above(file, task="detection")


def _regions(file: Path) -> None:
    """An annotation of semantic localisation, and its scores."""
    from vladapt.domains.remote_sensing.localization.annotation import read_annotation
    from vladapt.domains.remote_sensing.localization.scores import localization_scores

    for entry in read_annotation(file):
        with _ours():
            localization_scores(np.full((16, 20), 200, np.uint8), entry.regions)


def _arrow(file: Path) -> DomainData:
    pytest.importorskip("pyarrow")
    return _photos(file)


def _listed(file: Path) -> DomainData:
    from vladapt.domains.natural import Natural

    return Natural().read(_root(file) / "data", train_list=str(file))


def _people(file: Path, task: str = "attributes") -> DomainData:
    from vladapt.domains.person import Person

    return Person().read(_root(file), task)


def _questions(file: Path) -> None:
    from vladapt.domains.person.captions.questions import questions_with

    questions_with(file)


def _numbers(file: Path) -> DomainData:
    from vladapt.core.data import read_numbers

    return read_numbers(file)


READERS = {
    "numbers in parquet": Reader(valid_sets.numbers_parquet, _numbers),
    "class folders": Reader(valid_sets.class_folders, _folder_of(), examples=14),
    "manifest csv": Reader(valid_sets.manifest_csv, _any),
    "manifest tsv": Reader(valid_sets.manifest_indicators, _any),
    "manifest json": Reader(valid_sets.manifest_json, _any),
    "manifest jsonl": Reader(valid_sets.manifest_jsonl, _any),
    "coco crops": Reader(valid_sets.coco, _any, examples=17),
    "zhou split": Reader(valid_sets.zhou, _any),
    "voc crops": Reader(valid_sets.voc, lambda file: _folder_of(".")(file)),
    "dicom": Reader(valid_sets.dicom, _medical_folder),
    "dicom of predict": Reader(valid_sets.dicom, _unlabelled),
    "compressed dicom": Reader(valid_sets.compressed_dicom, _unlabelled, examples=5),
    "nifti": Reader(valid_sets.nifti, _medical_folder),
    "slides": Reader(valid_sets.slides, _slides),
    "regions of slides": Reader(lambda folder: valid_sets.slides(folder)[::-1], _slides_in_regions),
    "medmnist": Reader(valid_sets.medmnist, _medical_file, examples=14),
    "radiographs": Reader(valid_sets.radiographs, _radiographs),
    "features": Reader(valid_sets.features, _features, examples=14),
    "bag of a request": Reader(valid_sets.bag, _sent_bag, examples=14),
    "table of pairs": Reader(valid_sets.pair_table, _pairs),
    "lines of pairs": Reader(valid_sets.pair_lines, _pairs),
    "coco captions": Reader(valid_sets.coco_captions, _pairs),
    "karpathy": Reader(valid_sets.karpathy, _pairs),
    "person search": Reader(valid_sets.person_search, _pairs),
    "shards": Reader(valid_sets.shards, _pairs, examples=17),
    "shards in a row": Reader(valid_sets.shards, _in_a_row, examples=17),
    "texts beside images": Reader(valid_sets.texts_beside, _pairs_in_folder),
    "captions": Reader(valid_sets.captions, _captions),
    "detections": Reader(valid_sets.detections, _detections),
    "descriptions and synonyms": Reader(valid_sets.words, _words),
    "vocabulary": Reader(valid_sets.vocabulary, _vocabulary),
    "recipe": Reader(valid_sets.recipes, _recipe),
    "coco boxes": Reader(valid_sets.coco, _detection, examples=17),
    "coco outlines as masks": Reader(valid_sets.coco, _segmentation, examples=17),
    "voc boxes": Reader(valid_sets.voc, _detection),
    "yolo": Reader(valid_sets.yolo, _detection),
    "masks": Reader(valid_sets.masks, _segmentation),
    "coloured masks": Reader(valid_sets.coloured_masks, _segmentation),
    "pets": Reader(valid_photos.pets, _photos),
    "flowers": Reader(valid_photos.flowers, _photos, examples=2),
    "imagenet": Reader(valid_photos.imagenet, _photos),
    "datasets": Reader(valid_photos.arrow, _arrow, examples=20),
    "rasters": Reader(_rasters_made, _rasters, examples=20),
    "label layers": Reader(_layers_made, _windows, examples=20),
    "captions of pictures from above": Reader(valid_rasters.captions, _captioned),
    "oriented boxes": Reader(valid_rasters.dota, _oriented),
    "regions of sentences": Reader(valid_rasters.regions, _regions),
    "published split": Reader(valid_rasters.split_lists, _from_above),
    "published list": Reader(valid_photos.image_list, _listed),
    "labels": Reader(valid_photos.labels, valid_photos.read_labels),
    "attributes of people": Reader(valid_people.attribute_table, _people),
    "celeba": Reader(valid_people.celeba, _people),
    "market attributes": Reader(valid_people.market_attributes, _people, examples=2),
    "faces with captions": Reader(valid_people.face_captions, lambda file: _people(file, "person-search")),
    "questions about people": Reader(valid_people.questions, _questions),
    "findings of reports": Reader(valid_reports.sources, valid_reports.read, examples=20),
    "entities of reports": Reader(valid_reports.mentions, valid_reports.read_mentioned, examples=5),
    "items file": Reader(_items_file, _items, examples=17),
}


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused(name, tmp_path):
    reader = READERS[name]
    pristine = tmp_path / "valid"
    pristine.mkdir()
    files = [file.relative_to(pristine) for file in reader.make(pristine)]
    _read(reader, pristine / files[0])  # valid files are read, and what is imported for it does not count below

    @settings(max_examples=EXAMPLES or reader.examples, suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, 2**32 - 1))
    def check(seed):
        chance = random.Random(seed)
        with tempfile.TemporaryDirectory(dir=tmp_path) as place:  # a place of its own, since readers remember files
            folder = Path(place) / "set"
            shutil.copytree(pristine, folder)
            file = folder / chance.choice(files)
            mutations.mutate_file(file, chance)
            with _ours(), _at_most(MOST_S):
                _read(reader, file)

    check()


def _read(reader: Reader, file: Path) -> None:
    data = reader.read(file)
    if isinstance(data, DomainData):
        assert all(isinstance(name, str) for name in data.class_names)
        for item in _first(data.items):
            with _ours():
                data.load(item)
            if data.tiles is not None:
                with _ours():
                    data.tiles(item).read(range(1))
            if data.load_mask is not None:
                with _ours():
                    data.load_mask(item)
        for text in (*(item.id for item in data.items), *data.class_names, *(reason for _, reason in data.skipped)):
            text.encode()  # what is shown can be written


def _first(items: Iterable) -> Iterable:
    return islice(items, DECODED)


@contextmanager
def _ours():
    """Our errors pass, in one line of bounded length; any other is a failure."""
    try:
        yield
    except VladaptError as error:
        text = str(error)
        assert text and len(text) <= LONGEST_MESSAGE, repr(text)
        assert not {unicodedata.category(each) for each in text} & {"Cc", "Cs", "Zl", "Zp"}, repr(text)


@contextmanager
def _at_most(seconds: float):
    """Fails what takes longer; native code that does not come back ends the process, and says where it was."""

    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s of CPU time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    faulthandler.dump_traceback_later(5 * seconds, exit=True)
    started = time.process_time()
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert time.process_time() - started < seconds


def _root(file: Path) -> Path:
    """The folder "set" or "valid" above a file."""
    return next(parent for parent in file.parents if parent.name in ("set", "valid"))
