"""What lies at a path: lists of some published form, a table, class folders of videos or of folders of frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.contracts import DomainData, Label, check_items
from ...core.data import (
    Format,
    ItemCollector,
    Layout,
    Table,
    folders,
    loader,
    read_any,
    read_table,
    read_unlabelled,
    shown,
    stays_inside,
    visible,
    walk,
)
from ...core.errors import DataError, printable, shortened
from ...core.runtime import read_json, read_text
from . import action_sets, caption_sets, ego_mcq, moment_sets
from .annotations import Annotation, as_words, data_of, split_in
from .clip_files import ClipFiles
from .clip_tables import CLIPS, LABELS, VERB_ID, table_annotations

if TYPE_CHECKING:
    from ...core.contracts import Questions
    from .reading import VideoReading

LIST_FOLDERS = (
    "",
    "annotations",
    "annotation",
    "labels",
    "lists",
    "splits",
    "ucfTrainTestlist",
    "testTrainMulti_7030_splits",
)
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".txt")
PLAIN = ("clips", "captions", "manifest", "metadata", "annotations", "labels", "videos")
"""Stems of a table that says all of the set it lies in."""
SHOT_LIST = re.compile(r"few_?shot|^fs_", re.IGNORECASE)
"""Names of lists that choose clips to learn from (`shot_lists.py`), and do not say what the set is."""
MSVD_CAPTIONS = "AllVideoDescriptions.txt"
WHAT_IS_READ = (
    "class folders of videos or of folders of frames, a list (path label), a table (csv, tsv, jsonl, json) with the "
    "clip and its label or caption in columns, or the lists of a published set"
)


@dataclass(frozen=True)
class Listed:
    """What a list gives.

    Args:
        annotations: its lines.
        names: of classes, in order, where it says so.
        published: the set's usual name, whose videos nobody has all.
        notes: sentences for the user.
        questions: that it asks, or None.
        table: of a table its file, id of a clip -> position of its row, and the columns that hold the clip or its
            label; None of other lists.
    """

    annotations: Sequence[Annotation]
    names: Sequence[str] | None = None
    published: str | None = None
    notes: tuple[str, ...] = ()
    questions: Questions | None = None
    table: tuple[Path, Mapping[str, int], Collection[str]] | None = None


def read_clips(path: Path, reading: VideoReading, captions: bool) -> DomainData:
    """The set at a path.

    Args:
        captions: whether captions are wanted, and not classes.

    Raises:
        DataError: nothing there that can be read, or nothing of what is wanted.
        ConfigError: an option that does not apply.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give {WHAT_IS_READ}")
    if path.is_file():
        return _of_lists([path], path, reading, captions)
    in_folders = not captions and any(Layout.of(path, [fmt]) is not None for fmt in reading.formats)
    if lists := _lists_in(path, in_folders and reading.label_column is None, captions):
        whole = captions and not reading.moments
        return _of_lists(_of_first_annotator(lists) if whole else lists, path, reading, captions)
    if captions:
        raise DataError(f"{path}: holds no list of captions; give a table with a clip and a caption per row")
    return _of_folders(path, reading)


def read_new_clips(paths: Sequence[str | Path], reading: VideoReading) -> DomainData:
    """Clips without labels: videos, folders of frames, and folders of these at any depth.

    Raises:
        DataError: a path does not exist, is an image alone, or nothing there can be read.
    """
    videos, frames = reading.formats
    plain, clips = [], ItemCollector()
    for path in map(Path, paths):
        if path.is_file() and not videos.matches(path) and frames.matches(path):
            raise DataError(f"{path}: an image, not a clip; give the folder of its frames")
        found = list(_frame_folders_below(path, frames)) if path.is_dir() else []
        for folder in found:
            clips.add_file(frames.of_folder(folder), printable(folder.as_posix()), [frames])
        if not found or any(videos.matches(file) for file in walk(path, path, ItemCollector())):
            plain.append(path)
    data = read_unlabelled(plain, [videos]) if plain else None
    items = [*(data.items if data else []), *clips.items]
    skipped = [*(data.skipped if data else []), *clips.skipped]
    return DomainData(items, (), loader(reading.formats), kind="clips", name="clips", skipped=skipped)


def _frame_folders_below(path: Path, frames: Format) -> Iterator[Path]:
    """The folders that hold frames: this one, or those below it."""
    if frames.of_folder(path) is not None:
        yield path
        return
    for inner in folders(path):
        yield from _frame_folders_below(inner, frames)


def _of_lists(lists: Sequence[Path], path: Path, reading: VideoReading, captions: bool) -> DomainData:
    listed = [read_list(file, reading, captions) for file in lists]
    if captions and reading.label_column is not None:
        raise DataError(f"{path}: --label-column is for classes; omit it, or omit --task retrieval")
    folder = path if path.is_dir() else path.parent
    roots = [Path(reading.root)] if reading.root is not None else [folder, *_beside(folder)]
    annotations = [annotation for one in listed for annotation in one.annotations]
    names = reading.class_names or next((one.names for one in listed if one.names), None)
    data = data_of(
        annotations,
        ClipFiles(roots, reading.formats),
        reading.formats,
        lists[0] if len(lists) == 1 else path,
        captions=captions,
        class_names=names,
        name=folder.resolve().name,
        notes=dict.fromkeys(note for one in listed for note in one.notes),
        lacking_is_usual=any(one.published for one in listed),
        published=next((one.published for one in listed if one.published), None),
    )
    data.questions = next((one.questions for one in listed if one.questions is not None), None)
    tables = [one.table for one in listed if one.table is not None]
    data.columns = Table.columns_reader(tables) if tables else None
    return data if captions else check_items(data, path)


def _beside(folder: Path) -> list[Path]:
    """Where videos lie of lists in a folder of their own."""
    return [folder.parent] if folder.name in LIST_FOLDERS[1:] else []


def _lists_in(folder: Path, in_folders: bool, captions: bool) -> list[Path]:
    """The lists that say what the set in a folder is: those of one published form, else the only table, or those of the
    splits.

    Args:
        in_folders: whether there are class folders too; only a table that says the classes itself then counts.
        captions: whether captions are wanted; files that only name videos then do not count.
    """
    for inner in (folder / name for name in LIST_FOLDERS):
        if not inner.is_dir():
            continue
        files = sorted(Path(entry.path) for entry in visible(inner) if entry.is_file())
        files = [file for file in files if file.suffix.lower() in TABLES and not SHOT_LIST.search(file.name)]
        files = [file for file in files if not (captions and _names_videos_only(file))]
        for pattern in (action_sets.UCF_LIST, action_sets.HMDB_LIST):
            if any(pattern.match(file.name) for file in files):
                return [next(file for file in files if pattern.match(file.name))]
        if (inner / MSVD_CAPTIONS).is_file():
            return [inner / MSVD_CAPTIONS]
        whole = [file for file in files if file.name.lower() == "msrvtt_data.json"]
        plain = [file for file in files if file.stem.lower() in PLAIN and file.suffix != ".txt"]
        plain = [file for file in plain if not in_folders or _says_classes(file)]
        divided = [file for file in files if split_in(file.stem) and not file.stem.lower().startswith("readme")]
        divided = [file for file in divided if not in_folders or file.suffix == ".txt" or _says_classes(file)]
        tables = [file for file in files if file.suffix != ".txt" and not _is_class_list(file)]
        if len(plain) > 1:
            raise DataError(f"{folder}: holds {_some([file.name for file in plain])}; give one of them")
        for chosen in (whole, plain, divided, [] if in_folders else tables):
            if len(chosen) > 1 and chosen is tables:
                raise DataError(f"{folder}: holds {_some([file.name for file in tables])}; give one of them")
            if chosen:
                return chosen
        if captions and (inner / caption_sets.MSVD_PICKLE).is_file():
            return [inner / caption_sets.MSVD_PICKLE]
    return []


def _names_videos_only(file: Path) -> bool:
    """Whether a file beside others says which videos are used, and nothing of them."""
    return file.name in caption_sets.SPLIT_LISTS or file.stem.endswith("_ids")


def _of_first_annotator(lists: Sequence[Path]) -> list[Path]:
    """Without ActivityNet's second file of sentences about the same videos, where the first is there."""
    first, second = caption_sets.ACTIVITYNET_TESTS
    return [file for file in lists if file.name != second or file.with_name(first) not in lists]


def _says_classes(file: Path) -> bool:
    """Whether a table has clips and their classes; one that cannot be read counts, and its reader says why."""
    try:
        table = read_table(file)
    except DataError:
        return True
    return table.column_of(CLIPS) is not None and table.column_of([*LABELS, *VERB_ID]) is not None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _is_class_list(file: Path) -> bool:
    stem = file.stem.lower()
    return stem.endswith(("labels", "classes")) or "_classes" in stem or stem == "label_map"


def read_list(path: Path, reading: VideoReading, captions: bool) -> Listed:
    """A list or table of any form.

    Raises:
        DataError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return _of_text(path, reading)
    if suffix == ".json":
        content = read_json(path)
        for fits, read in _JSON_FORMS:
            if fits(content):
                return _of_form(read, path, content, reading)
    elif path.name == caption_sets.MSVD_PICKLE:
        pickle, text = f"open('{path.name}', 'rb')", f"open('{caption_sets.MSVD_JSON}', 'w')"
        cure = f'python -c "import json, pickle; json.dump(pickle.load({pickle}), {text})"'
        raise DataError(f"{path}: a pickle may run any code and is not read; if you trust it, make JSON of it: {cure}")
    elif suffix not in TABLES:
        raise DataError(f"{path}: not a known kind of list; give {WHAT_IS_READ}")
    elif caption_sets.is_lsmdc(path):
        return Listed(caption_sets.lsmdc_annotations(path), published="lsmdc")
    elif suffix == ".csv" and _is_headless(path, reading):
        return Listed(action_sets.listed_annotations(path, reading.class_names))
    return _of_table(path, reading)


def _of_form(read: Callable[[Path, Any, Any], Listed], path: Path, content: Any, reading: VideoReading) -> Listed:
    try:
        return read(path, content, reading)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = shortened(f"{type(error).__name__}: {error}", 80)
        raise DataError(f"{path}: an entry does not have the form of the first one ({reason}); correct it") from None


def _of_table(path: Path, reading: VideoReading) -> Listed:
    if path.suffix.lower() != ".json":
        table = read_table(path)
        if all(table.column_of([name]) for name in ("youtube_id", "time_start", "time_end")):
            return Listed(action_sets.kinetics_rows(table, split_in(path.stem)), published="kinetics")
        if all(table.column_of([name]) for name in ("video_id", "start", "end", "worker_id", "description")):
            return Listed(caption_sets.msvd_rows(table), published="msvd")
        if all(table.column_of([name]) for name in moment_sets.QVHIGHLIGHTS):
            return Listed(moment_sets.qvhighlights_rows(table), published="qvhighlights")
    annotations, notes, row_of, holding = table_annotations(
        path, label_column=reading.label_column, group_column=reading.group_column, target=reading.target
    )
    return Listed(annotations, notes=notes, table=(path, row_of, holding))


def _of_text(path: Path, reading: VideoReading) -> Listed:
    folder = path.parent
    if action_sets.UCF_LIST.match(path.name):
        return Listed(action_sets.ucf_annotations(folder, reading.fold), published="ucf101")
    if action_sets.HMDB_LIST.match(path.name):
        return Listed(action_sets.hmdb_annotations(folder, reading.fold), published="hmdb51")
    if path.name == MSVD_CAPTIONS:
        return Listed(caption_sets.msvd_annotations(folder, path), published="msvd")
    if moment_sets.is_charades(path):
        return Listed(moment_sets.charades_annotations(path), published="charades-sta")
    return Listed(action_sets.listed_annotations(path, reading.class_names))


def _is_headless(path: Path, reading: VideoReading) -> bool:
    """Whether a CSV is a list: no column of its first line is called anything usual, but names a file."""
    cells = read_text(path).lstrip().split("\n", 1)[0].replace(";", ",").split(",")
    suffixes = tuple(suffix for fmt in reading.formats for suffix in fmt.suffixes)
    if len(cells) == 1:
        return cells[0].split(" ")[0].lower().endswith(suffixes)
    return cells[0].strip().lower().endswith(suffixes)


def _values_have(content: Any, *keys: str) -> bool:
    """Whether a JSON is an object of objects that have these keys."""
    if not isinstance(content, dict) or not content:
        return False
    first = next(iter(content.values()))
    return isinstance(first, Mapping) and set(keys) <= first.keys()


def _begins_with(content: Any, *keys: str) -> bool:
    """Whether a JSON is a list whose first object has these keys."""
    return (
        isinstance(content, list) and bool(content) and isinstance(content[0], Mapping) and set(keys) <= {*content[0]}
    )


def _are_named_texts(content: Any) -> bool:
    """Whether a JSON is an object of lists of texts, or of lists of words."""
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, list) and bool(first) and isinstance(first[0], (str, list))


def _is_something(content: Any) -> bool:
    return _begins_with(content, "id") and {*content[0]} <= {"id", "label", "template", "placeholders"}


def _msrvtt(path: Path, content: Any, reading: VideoReading) -> Listed:
    return Listed(caption_sets.msrvtt_annotations(path, content, reading.partition), published="msr-vtt")


def _didemo(path: Path, content: Any, reading: VideoReading) -> Listed:
    return Listed(caption_sets.didemo_annotations(path, content, not reading.moments), published="didemo")


def _activitynet(path: Path, content: Any, reading: VideoReading) -> Listed:
    annotations = caption_sets.activitynet_annotations(path, content, not reading.moments)
    first, second = caption_sets.ACTIVITYNET_TESTS
    beside = not reading.moments and path.name == first and path.with_name(second).is_file()
    note = f"The file {second} is not read: it describes the videos of {first} again, on which papers test retrieval."
    return Listed(annotations, published="activitynet-captions", notes=(note,) if beside else ())


def _named(path: Path, content: Any, reading: VideoReading) -> Listed:
    published = "msvd" if path.name == caption_sets.MSVD_JSON else "vatex" if _values_have(content, "enCap") else None
    return Listed(caption_sets.named_annotations(path, content), published=published)


def _vatex(path: Path, content: Any, reading: VideoReading) -> Listed:
    return Listed(caption_sets.vatex_annotations(path, content), published="vatex")


def _ego_mcq(path: Path, content: Any, reading: VideoReading) -> Listed:
    annotations, questions = ego_mcq.ego_mcq_annotations(path, content)
    return Listed(annotations, published="egomcq", questions=questions)


def _something(path: Path, content: Any, reading: VideoReading) -> Listed:
    names = action_sets.something_names(path.parent)
    return Listed(action_sets.something_annotations(path, content), names, "something-something-v2")


def _kinetics(path: Path, content: Any, reading: VideoReading) -> Listed:
    return Listed(action_sets.kinetics_annotations(path, content), published="kinetics")


_JSON_FORMS: tuple[tuple[Callable[[Any], bool], Callable[[Path, Any, Any], Listed]], ...] = (
    (lambda content: isinstance(content, dict) and {"videos", "sentences"} <= content.keys(), _msrvtt),
    (lambda content: _values_have(content, "timestamps", "sentences"), _activitynet),
    (lambda content: _values_have(content, "query", "choices", "answer"), _ego_mcq),
    (lambda content: _values_have(content, "annotations") or _values_have(content, "subset"), _kinetics),
    (lambda content: isinstance(content, dict) and _values_have(content.get("database"), "annotations"), _kinetics),
    (lambda content: _values_have(content, "enCap") or _are_named_texts(content), _named),
    (lambda content: _begins_with(content, "videoID", "enCap"), _vatex),
    (lambda content: _begins_with(content, "video", "description", "times"), _didemo),
    (_is_something, _something),
)
"""Whether a JSON is of this form, and how it is read."""


def _of_folders(path: Path, reading: VideoReading) -> DomainData:
    """Class folders of videos, or of folders of frames."""
    videos, frames = reading.formats
    of_videos, of_frames = Layout.of(path, [videos]), Layout.of(path, [frames])
    layout = of_videos or of_frames
    both = (
        _first_clip(layout, lambda clip: clip.is_file() and videos.matches(clip)),
        _first_clip(layout, lambda clip: clip.is_dir() and frames.of_folder(clip) is not None),
    )
    if all(both):
        first, second = (shown(each, path) for each in both)
        raise DataError(
            f"{path}: holds both videos and folders of frames ({first}, {second}); keep one kind, or list clips in a "
            "table"
        )
    if of_videos is None and of_frames is not None:
        return _of_frame_folders(path, of_frames, reading, frames)
    data = read_any(path, [videos], **reading.of_any())
    return replace(data, kind="clips", class_names=tuple(map(as_words, data.class_names)))


def _first_clip(layout: Any, is_clip: Callable[[Path], bool]) -> Path | None:
    """The first clip of a kind in the class folders of a layout."""
    parts = () if layout is None else layout.parts
    inner = (Path(entry.path) for _, folder in parts for each in folders(folder) for entry in visible(each))
    return next((path for path in inner if is_clip(path)), None)


def _of_frame_folders(path: Path, layout: Any, reading: VideoReading, frames: Format) -> DomainData:
    """`CLASS/CLIP/*.jpg`, with or without train, val and test above."""
    collector, index = ItemCollector(), {name: place for place, name in enumerate(layout.class_names)}
    for split, folder in layout.parts:
        for category in folders(folder):
            for clip in folders(category):
                if not stays_inside(clip, path):
                    collector.skip(
                        shown(clip, path),
                        "a linked folder outside the data folder; copy it there, or give --follow-links",
                    )
                    continue
                if (first := frames.of_folder(clip)) is None:
                    collector.skip(shown(clip, path), "a folder without frames")
                    continue
                label = Label(index[printable(category.name)])
                collector.add_file(first, shown(clip, path), [frames], target=label, split=split)
    if not collector.items:
        raise DataError(f"{path}: holds images but no clips; put the frames of each clip into CLASS/CLIP/")
    class_names = map(as_words, layout.class_names)
    data = collector.data_set(path, [frames], class_names, kind="clips", notes=list(layout.notes))
    return check_items(data, path)
