"""The video domain: clips as their frames; actions named, videos found by sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import contracts
from ...core.contracts import Decoded, Domain, DomainData, Item, option
from ...core.data import Format
from ...core.errors import ConfigError
from .caption_sets import PARTITIONS
from .clip_tables import TARGETS
from .clips import CROPS, MIDDLE_CROP, RULES, SHORT_SIDE, Sampling, video_format
from .directions import hold_a_direction, with_mirrored
from .frame_folders import frame_folders

if TYPE_CHECKING:
    from ...core.contracts import PartViews

OF_CLASSES = ("action-recognition", "classification")
"""Tasks that are told by classes; the others by captions."""
IN_A_ROW = "none"
AVERAGES = (IN_A_ROW, "probabilities", "scores")
TEMPLATES = (
    *("a video of {}.", "a video of a person {}.", "a clip of {}.", "a person {}."),
    *("footage of someone {}.", "a video that shows {}.", "an example of {}.", "{}."),
)
FRAMES = "frames"
ENTRIES = (FRAMES, "clips")


@dataclass(frozen=True, kw_only=True)
class Reading(contracts.Reading):
    """Options of `Video.read`, given as `data.NAME` in a recipe."""

    frames: int = option(8, "frames decoded per clip, or per part where a video has several", low=1, high=4096)
    sampling: str = option("uniform", "rule by which frames are chosen", choices=RULES)
    interval: int = option(8, "sampling stretches and slowfast: frames from one to the next", low=1, high=10_000)
    fps: float = option(1.0, "sampling fps, moments and index: frames per second", above=0, high=1000)
    clips: int = option(1, "sampling uniform, stretches, dense, slowfast: clips of a video", low=1, high=1000)
    crops: int = option(
        1, "crops of each frame: 1 for the middle, 3 along the longer side, 10 corners and mirrors", choices=CROPS
    )
    average_views: str = option(
        "none", "average the predictions of several clips and crops; none: all frames as one sequence", choices=AVERAGES
    )
    short_side: int = option(SHORT_SIDE, "shorter side to which larger frames are reduced", low=16, high=8192)
    mirror_labels: bool = option(False, "also train on mirrored clips, with left and right in class names swapped")
    keep_frames: bool = option(False, "keep decoded frames in the cache: for training, which reads them many times")
    frame_rate: float = option(25.0, "folders of frames: frames per second", above=0, high=100_000)
    frame_pattern: str | None = option(None, "folders of frames: names of the frames, img_*.jpg; by default all images")
    fold: int = option(1, "UCF101, HMDB51: number of the published split", low=1, high=99)
    partition: str = option("full", "MSR-VTT: partition into training and test videos", choices=PARTITIONS)
    target: str = option("action", "tables with verbs and nouns by number: which of them is the class", choices=TARGETS)
    train_list: str | None = option(None, "list of the clips to learn from, as published (train1_few_shot_2.txt)")
    val_list: str | None = option(None, "list of the clips on which settings are chosen")
    moments: bool = option(False, "DiDeMo, ActivityNet: each sentence with its times, not one paragraph per video")
    entries: str = option(FRAMES, "index: what is searched, single frames at --fps or whole clips", choices=ENTRIES)

    def __post_init__(self):
        super().__post_init__()
        _ = self.how, self.part_views

    @property
    def how(self) -> Sampling:
        """Which frames are decoded."""
        return Sampling(self.sampling, self.frames, self.interval, self.fps, self.clips, self.short_side)

    @property
    def part_views(self) -> PartViews | None:
        """How predictions are averaged over clips and crops; None where their frames follow one another.

        Raises:
            ConfigError: there is one view only.
        """
        if self.average_views == IN_A_ROW:
            return None
        from ...core.contracts import PartViews

        if (count := self.clips * self.crops) < 2:
            raise ConfigError(
                f"--average-views {self.average_views}: each clip has only one view; give --clips or --crops too"
            )
        middle = MIDDLE_CROP[self.crops] * self.clips + (self.clips - 1) // 2
        return PartViews(count, middle, self.average_views)

    @property
    def formats(self) -> tuple[Format, ...]:
        """What counts as a clip."""
        frames = frame_folders(self.how, self.frame_rate, self.frame_pattern, self.max_pixels)
        return video_format(self.how, self.max_pixels, self.keep_frames), frames

    def notes_on_unused(self, data: DomainData, task: str) -> list[str]:
        """One sentence for each option that was given and changed nothing."""
        folders = any("rate" in item.decode for item in data.items)
        videos = any("rate" not in item.decode for item in data.items)
        narrated = any("verb" in (item.target.numbers() if item.target else ()) for item in data.items)
        used = RULES[self.sampling].options
        kinds = {
            "min_side": "boxes",
            **({} if "interval" in used else {"interval": "the sampling stretches and slowfast"}),
            "entries": "vladapt index",
            **({} if self.sampling == "fps" or task == "moments" else {"fps": "the sampling fps, moments and index"}),
            **({} if folders else dict.fromkeys(("frame_rate", "frame_pattern"), "folders of frames")),
            **({} if videos else {"keep_frames": "videos"}),
            **({} if data.published in ("ucf101", "hmdb51") else {"fold": "UCF101 and HMDB51"}),
            **({} if data.kind != "captions" else {"average_views": "clips with classes"}),
            **({} if data.published == "msr-vtt" else {"partition": "MSR-VTT"}),
            **({} if data.published in ("didemo", "activitynet-captions") else {"moments": "DiDeMo and ActivityNet"}),
            **({} if narrated and data.kind == "clips" else {"target": "tables with verbs and nouns by number"}),
        }
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return [f"Option {name} has no effect here: it is for {kinds[name]}." for name in given if name in kinds]


class Video(Domain):
    """Clips. Each frame is encoded and stored by itself, as a part of its clip: methods see them, or their mean."""

    name = "video"
    tasks = (*OF_CLASSES, "retrieval", "moments")
    reading = Reading
    metrics = ("top-five",)

    def __init__(self):
        self.mirrored, self.crops, self.clips = True, 1, 1

    def read(self, path: str | Path, task: str | None = None, **options: Any) -> DomainData:
        """A labelled set of whatever kind lies at `path`.

        Args:
            path: file or folder: class folders of videos or of folders of frames; lists and tables (`finding.py`).
            task: "action-recognition" or "classification", which differ in what a report shows, "retrieval" of
                captioned clips, or "moments": captions with their times.
            options: fields of `Reading`.

        Raises:
            DataError: nothing there that can be read.
            UnknownNameError: no option of that name.
            ConfigError: a value that is not usable, or an option that does not apply.
        """
        from .finding import read_clips
        from .shot_lists import with_shot_lists

        task, reading = self.check_task(task), self.reading_of(options)
        if task == "moments" and reading.crops > 1:
            raise ConfigError(f"--crops {reading.crops}: task moments uses whole frames; omit it")
        asked = replace(reading, moments=True) if task == "moments" else reading
        data = self._named(read_clips(Path(path), asked, task not in OF_CLASSES))
        data = self._with_views(with_shot_lists(data, Path(path), reading), reading)
        data.notes = [*data.notes, *reading.notes_on_unused(data, task)]
        if not reading.mirror_labels:
            return data
        self.mirrored = False
        return with_mirrored(data)

    def read_images(self, paths: Sequence[str | Path], **options: Any) -> DomainData:
        """Clips without labels: video files, folders of frames, and folders of these.

        Raises:
            DataError: a path does not exist, or nothing there can be read.
        """
        from .finding import read_new_clips

        reading = self.reading_of(options)
        return self._with_views(read_new_clips(paths, reading), reading)

    def read_query(self, path: str | Path, **options: Any) -> DomainData | None:
        """A picture, a clip, or a frame as `search` names it ("film.mp4#t=65,66").

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        from .queries import read_query

        return read_query(path, self.reading_of(options))

    def to_index(self, data: DomainData, **options: Any) -> DomainData:
        """Videos in stretches of frames at `fps`, each frame to be found by itself; or clips as they are."""
        from .long_videos import divided

        reading = self.reading_of(options)
        if reading.crops > 1:
            raise ConfigError(f"--crops {reading.crops}: an index holds whole frames; omit it")
        return divided(data, reading.fps) if reading.entries == FRAMES else data

    def part_item(self, item: Item, part: int) -> Item | None:
        """A frame with its time."""
        from .long_videos import INSTANTS, frame_of

        return frame_of(item, part) if INSTANTS in item.decode else None

    def placed(self, item: Item) -> dict[str, float]:
        """Seconds at which the clip that was looked at begins and ends."""
        from .long_videos import looked_at

        start, end = looked_at(item)
        return {"start": round(start, 3), "end": round(end, 3)}

    def sample(self, task: str | None = None) -> DomainData:
        """240 clips of 8 motions, drawn on demand; no download."""
        from .drawn_clips import drawn_clips, drawn_pairs
        from .drawn_moments import drawn_moments

        self.crops = self.clips = 1
        made = {"retrieval": drawn_pairs, "moments": drawn_moments}.get(self.check_task(task), drawn_clips)
        return self._named(made())

    def templates(self, task: str | None = None) -> list[str]:
        """Of clips; their features are averaged."""
        return list(TEMPLATES)

    def transforms(self, backbone, train: bool, task: str | None = None) -> Callable[[Decoded], Any]:
        """Each frame by the backbone's own preprocessing; for training one crop, flip and change of colour per clip,
        without the flip where class names hold a direction. Whole clips, for a tower that sees frames together."""
        from .transforms import ClipAugment, EachFrame, WholeClip

        if not train:
            frames = EachFrame(backbone.preprocess(False), self.crops)
            return frames if backbone.joint is None else WholeClip(frames, backbone.joint.parts, self.clips)
        flip = {} if self.mirrored else {"flip": 0.0}
        augment = ClipAugment(backbone.image_size, tuple(backbone.image_mean), tuple(backbone.image_std), **flip)
        return EachFrame(augment, clips=self.clips)

    def _with_views(self, data: DomainData, reading: Reading) -> DomainData:
        """Takes in how the clips are looked at, and says so of the data."""
        self.crops, views = reading.crops, None if data.kind == "captions" else reading.part_views
        self.clips = 1 if views is None else reading.clips
        if views is None:
            return data
        note = (
            f"Predictions are averaged over {reading.clips} x {reading.crops} views of each clip ({views.average}); "
            "methods learn from the middle one."
        )
        return replace(data, part_views=views, notes=[*data.notes, note])

    def _named(self, data: DomainData) -> DomainData:
        """Takes in whether a mirror makes the names wrong."""
        texts = {*data.class_names, *(text for item in data.items for text in item.captions())}
        self.mirrored = not hold_a_direction(texts)
        return data
