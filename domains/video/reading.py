"""How clips are read: which frames of a video, how large, in how many views, by which lists."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ...core.contracts import DomainData, Reading, option
from ...core.data import Format
from ...core.errors import ConfigError
from .caption_sets import PARTITIONS
from .clip_tables import TARGETS
from .clips import AREA, COLOURS, CROPS, LIGHT, MIDDLE_CROP, RULES, SHORT_SIDE, TRAIN_CROPS, Sampling, video_format
from .frame_folders import frame_folders

if TYPE_CHECKING:
    from ...core.contracts import PartViews

IN_A_ROW = "none"
AVERAGES = (IN_A_ROW, "probabilities", "scores")
FRAMES = "frames"
ENTRIES = (FRAMES, "clips")


@dataclass(frozen=True, kw_only=True)
class VideoReading(Reading):
    """Options of `Video.read`, given as `data.NAME` in a recipe."""

    frames: int = option(8, "frames decoded per clip, or per part where a video has several", low=1, high=4096)
    sampling: str = option("uniform", "rule by which frames are chosen", choices=RULES)
    interval: int = option(8, "sampling stretches and slowfast: frames from one to the next", low=1, high=10_000)
    fps: float = option(1.0, "sampling fps, moments and index: frames per second", above=0, high=1000)
    clips: int = option(
        1,
        "number of clips that are seen of a video, for sampling uniform, stretches, dense and slowfast",
        low=1,
        high=1000,
    )
    crops: int = option(
        1, "crops of each frame: 1 for the middle, 3 along the longer side, 10 corners and mirrors", choices=CROPS
    )
    centre_share: float = option(
        1.0, "share of each side that the middle crop is made of; 0.875: 224 of 256 pixels", low=0.1, high=1
    )
    average_views: str = option(
        "none", "average the predictions of several clips and crops; none: all frames as one sequence", choices=AVERAGES
    )
    short_side: int = option(SHORT_SIDE, "shorter side to which larger frames are reduced", low=16, high=8192)
    train_crop: str = option(
        AREA, "training: a share of the area, MultiScaleCrop, PySlowFast's jitter, or the centre", choices=TRAIN_CROPS
    )
    train_flip: bool = option(True, "training: mirror every second clip, unless class names hold a direction")
    train_colours: str = option(
        LIGHT, "training: change of colours; strong: that of X-CLIP and ActionCLIP", choices=COLOURS
    )
    train_grey: float = option(0.0, "training: probability that a clip loses its colours", low=0, high=1)
    train_randaugment: bool = option(False, "training: RandAugment, two operations of strength 9 on each clip")
    mirror_labels: bool = option(False, "also train on mirrored clips, with left and right in class names swapped")
    keep_frames: bool = option(False, "keep decoded frames in the cache: for training, which reads them many times")
    frame_rate: float = option(25.0, "folders of frames: frames per second", above=0, high=100_000)
    frame_pattern: str | None = option(
        None, "folders of frames: names of the frames, img_*.jpg; by default all images", metavar="PATTERN"
    )
    fold: int = option(1, "UCF101, HMDB51: number of the published split", low=1, high=99)
    partition: str = option("full", "MSR-VTT: partition into training and test videos", choices=PARTITIONS)
    target: str = option("action", "tables with verbs and nouns by number: which of them is the class", choices=TARGETS)
    train_list: str | None = option(
        None, "list of the clips to learn from, as published (train1_few_shot_2.txt)", metavar="FILE"
    )
    val_list: str | None = option(None, "list of the clips on which settings are chosen", metavar="FILE")
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

    def need_whole_frames(self, who: str) -> None:
        """Raise the ConfigError of an option that takes parts of frames alone."""
        cuts = {"crops": self.crops, "centre-share": self.centre_share}
        for name, value in cuts.items():
            if value != 1:
                raise ConfigError(f"--{name} {value}: {who} whole frames; omit it")

    @property
    def augmentation(self) -> dict[str, Any]:
        """How clips are changed in training: of `ClipAugment`."""
        return {
            "crop": self.train_crop,
            "flip": 0.5 if self.train_flip else 0.0,
            "colours": self.train_colours,
            "grey": self.train_grey,
            "randaugment": self.train_randaugment,
        }

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
            **({} if self.crops == 1 else {"centre_share": "a single crop, in the middle"}),
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
