"""Captions of videos as published sets keep them.

* MSR-VTT (CVPR 2016): `MSRVTT_data.json`, and the lists of its partitions: "full" as the JSON says, "1k-a" with the
  JSON's own train and val and the 1,000 pairs of "A Joint Sequence Fusion Model" (arXiv 1808.02559) as its test,
  "9k" with this test and all other videos for training; `MSRVTT_JSFUSION_test.csv`, `MSRVTT_train.9k.csv`.
* MSVD (ACL 2011): `train_list.txt`, `val_list.txt`, `test_list.txt`, captions as "video caption" lines, a CSV, or what
  `raw-captions.pkl` holds, written as JSON.
* DiDeMo (arXiv 1708.01641): JSON lists with description, video, times in steps of five seconds.
* ActivityNet Captions (arXiv 1705.00754): JSON, id -> duration, timestamps, sentences.
* LSMDC (arXiv 1605.03705): CSV with tabs and no header: clip, two times twice, sentence.
* VATEX (arXiv 1904.03493): JSON lists with videoID (an id of YouTube and two times) and enCap; or an object of them.

Lists of MSVD's form that lie beside DiDeMo's and VATEX' JSON say which of the videos are used, and for what.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.data import Table, read_table
from ...core.errors import ConfigError, DataError, shortened
from ...core.runtime import read_text
from .annotations import Annotation, seconds, split_in, usual_split

PARTITIONS = ("full", "9k", "1k-a")
TRAIN_9K, TEST_1K = "MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"
SPLIT_LISTS = {f"{split}_list.txt": split for split in ("train", "val", "test")}
"""Lists of names of videos."""
MSVD_PICKLE, MSVD_JSON = "raw-captions.pkl", "raw-captions.json"
ACTIVITYNET_TESTS = ("val_1.json", "val_2.json")
"""Sentences of the same videos by two annotators; retrieval is published on the first."""
DIDEMO_STEP = 5.0
VATEX_ID = re.compile(r"^(.+)_(\d{6})_(\d{6})$")
LSMDC_TIME = re.compile(r"^(\d+)[.:](\d+)[.:](\d+)[.:](\d+)$")
MSVD_NAME = re.compile(r"^(\S+?)_(\d+)_(\d+)$")


def msrvtt_annotations(path: Path, content: Mapping[str, Any], partition: str) -> list[Annotation]:
    """MSR-VTT's sentences, by the split of a partition.

    Args:
        path: the JSON.
        content: "videos" with video_id and split, "sentences" with video_id and caption.
        partition: "full", "9k" or "1k-a"; the last two want the lists beside the JSON.

    Raises:
        ConfigError: the lists of the partition are not there.
    """
    split_of = {str(video["video_id"]): str(video.get("split", "")) for video in content["videos"]}
    texts: dict[str, list[str]] = {}
    for sentence in content["sentences"]:
        texts.setdefault(str(sentence["video_id"]), []).append(str(sentence["caption"]).strip())
    if partition == "full":
        splits = {id_: usual_split(split, f"{path} {id_}") for id_, split in split_of.items()}
        return [_video(id_, path, captions, splits.get(id_, "")) for id_, captions in texts.items()]
    test = read_table(_beside(path, TEST_1K, partition))
    id_column, sentence = test.column_of(["video_id"]), test.column_of(["sentence", "caption"])
    if id_column is None or sentence is None:
        raise DataError(f"{test.path}: has no columns video_id and sentence; give both")
    annotations = [_video(row.text(id_column), test.path, [row.text(sentence)], "test") for row in test.rows]
    tested = {annotation.name for annotation in annotations}
    if partition == "9k":
        train = read_table(_beside(path, TRAIN_9K, partition))
        names = dict.fromkeys((row.text(train.column_of(["video_id"])) for row in train.rows), "train")
    else:
        own = {"train": "train", "validate": "val", "val": "val"}
        names = {id_: own[split] for id_, split in split_of.items() if split in own}
    for id_, split in names.items():
        if id_ not in tested and id_ in texts:
            annotations.append(_video(id_, path, texts[id_], split))
    return annotations


def didemo_annotations(path: Path, content: Sequence[Mapping[str, Any]], whole: bool) -> list[Annotation]:
    """DiDeMo's descriptions: of moments, or of whole videos, whose descriptions are then joined as one paragraph.

    Args:
        whole: as retrieval is published: a video's descriptions one after the other.
    """
    split, moments = split_in(path.stem), {}
    for number, entry in enumerate(content, 1):
        place = f"{path} entry {number}"
        video, text = str(entry.get("video") or ""), str(entry.get("description") or "").strip()
        if not video or not text:
            raise DataError(f"{place}: has no video, or no description; give both")
        moments.setdefault(video, []).append((place, text, _most_named(entry.get("times") or [])))
    if whole:

        def joined(listed: list) -> str:
            return " ".join(text for _, text, _ in listed)

        paragraphs = [
            Annotation(video, listed[0][0], captions=(joined(listed),), split=split, names=_stems(video))
            for video, listed in moments.items()
        ]
        return with_listed_splits(paragraphs, path.parent)
    return [
        Annotation(video, place, captions=(text,), start=start, end=end, split=split, group=video, names=_stems(video))
        for video, listed in moments.items()
        for place, text, (start, end) in listed
    ]


def activitynet_annotations(path: Path, content: Mapping[str, Any], whole: bool) -> list[Annotation]:
    """ActivityNet's sentences with times, or joined as one paragraph of the whole video."""
    split, annotations = split_in(path.stem.replace("val_1", "val").replace("val_2", "val")), []
    for id_, video in content.items():
        place, texts = f"{path} {id_}", [str(text).strip() for text in video["sentences"]]
        names = (id_.removeprefix("v_"), f"v_{id_}")
        if whole:
            annotations.append(Annotation(id_, place, captions=(" ".join(texts),), split=split, names=names))
            continue
        if len(video["timestamps"]) != len(texts):
            raise DataError(f"{place}: {len(texts)} sentences, {len(video['timestamps'])} times; give one each")
        for (start, end), text in zip(video["timestamps"], texts, strict=True):
            times = {"start": seconds(start, place), "end": seconds(end, place)}
            annotations.append(Annotation(id_, place, captions=(text,), split=split, group=id_, names=names, **times))
    return annotations


def vatex_annotations(path: Path, content: Sequence[Mapping[str, Any]]) -> list[Annotation]:
    """VATEX' English captions; a file may be the clip, or the whole video of YouTube."""
    split, annotations = split_in(path.stem), []
    for entry in content:
        id_, place = str(entry["videoID"]), f"{path} {entry['videoID']}"
        texts = tuple(str(text).strip() for text in entry.get("enCap") or ())
        source = VATEX_ID.match(id_)
        annotations.append(Annotation(id_, place, captions=texts, split=split, group=source[1] if source else id_))
    return with_listed_splits(annotations, path.parent)


def lsmdc_annotations(path: Path) -> list[Annotation]:
    """LSMDC's table; clips of one film belong together."""
    annotations = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells, place = line.rstrip("\n").split("\t"), f"{path} line {number}"
        if not line.strip():
            continue
        if len(cells) < 6:
            raise DataError(f"{place}: '{shortened(line)}' has {len(cells)} cells; give clip, four times, sentence")
        film = cells[0].rsplit("_", 1)[0]
        annotations.append(
            Annotation(cells[0], place, captions=(cells[5].strip(),), split=split_in(path.stem), group=film)
        )
    return annotations


def msvd_annotations(folder: Path, captions: Path) -> list[Annotation]:
    """MSVD's captions, by the lists of its splits that lie in the folder.

    Args:
        captions: "video caption" in each line (`AllVideoDescriptions.txt`), # before remarks.
    """
    texts: dict[str, list[str]] = {}
    for line in read_text(captions).splitlines():
        name, _, text = line.strip().partition(" ")
        if text and not name.startswith("#"):
            texts.setdefault(name, []).append(text.strip())
    return with_listed_splits(
        [
            Annotation(name, str(captions), captions=tuple(listed), group=_source(name))
            for name, listed in texts.items()
        ],
        folder,
    )


def named_annotations(path: Path, content: Mapping[str, Any]) -> list[Annotation]:
    """Sentences by the name of their video: texts, texts as lists of words, or an object whose "enCap" are these."""
    annotations, split = [], split_in(path.stem)
    for name, listed in content.items():
        texts = listed["enCap"] if isinstance(listed, Mapping) else [listed] if isinstance(listed, str) else listed
        captions = tuple((text if isinstance(text, str) else " ".join(text)).strip() for text in texts)
        annotations.append(Annotation(name, f"{path} {name}", captions=captions, split=split, group=_source(name)))
    return with_listed_splits(annotations, path.parent)


def with_listed_splits(annotations: Sequence[Annotation], folder: Path) -> list[Annotation]:
    """The annotations of videos that the split lists in a folder name, with these splits; all where it has none."""
    split_of = {
        line.strip(): split
        for name, split in SPLIT_LISTS.items()
        if (folder / name).is_file()
        for line in read_text(folder / name).splitlines()
        if line.strip()
    }
    if not split_of:
        return list(annotations)
    return [replace(each, split=split_of[each.name]) for each in annotations if each.name in split_of]


def msvd_rows(table: Table) -> list[Annotation]:
    """MSVD's own table (MSR Video Description Corpus), its English sentences; clips are called ID_START_END."""
    columns = {name: table.column_of([name]) for name in ("video_id", "start", "end", "description", "language")}
    annotations = []
    for row in table.rows:
        video, start, end, text, language = (row.text(column) for column in columns.values())
        if language.lower() in ("english", "") and text:
            name = f"{video}_{start}_{end}"
            annotations.append(Annotation(name, row.place, captions=(text,), group=video))
    return annotations


def is_lsmdc(path: Path) -> bool:
    """Whether a table begins with a clip and two times twice."""
    cells = read_text(path).lstrip().split("\n", 1)[0].split("\t")
    return len(cells) >= 6 and all(LSMDC_TIME.match(cell.strip()) for cell in cells[1:5])


def _video(id_: str, path: Path, captions: Sequence[str], split: str) -> Annotation:
    return Annotation(id_, f"{path} {id_}", captions=tuple(dict.fromkeys(captions)), split=split)


def _beside(path: Path, name: str, partition: str) -> Path:
    file = path.parent / name
    if not file.is_file():
        raise ConfigError(f"--set data.partition={partition}: needs {name} beside {path.name}; put it there")
    return file


def _most_named(times: Sequence[Sequence[int]]) -> tuple[float | None, float | None]:
    """The stretch that most annotators named, in seconds: their numbers are pieces of five seconds, both included."""
    if not times:
        return None, None
    counts: dict[tuple[int, int], int] = {}
    for first, last in times:
        counts[int(first), int(last)] = counts.get((int(first), int(last)), 0) + 1
    first, last = max(counts, key=lambda pair: (counts[pair], -pair[0], -pair[1]))
    return first * DIDEMO_STEP, (last + 1) * DIDEMO_STEP


def _stems(video: str) -> tuple[str, ...]:
    """Names of a DiDeMo video whose suffix is another than listed."""
    return (video.rsplit(".", 1)[0], video.split(".")[0])


def _source(name: str) -> str | None:
    """The video of YouTube that an MSVD clip is cut from."""
    match = MSVD_NAME.match(name)
    return match[1] if match else None
