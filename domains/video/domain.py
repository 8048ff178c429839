"""The video domain: clips as their frames; actions named, videos found by sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.contracts import Decoded, Domain, DomainData, Item
from .directions import hold_a_direction, with_mirrored
from .reading import FRAMES, VideoReading

if TYPE_CHECKING:
    from ...core.contracts import Corruption

OF_CLASSES = ("action-recognition", "classification")
"""Tasks that are told by classes; the others by captions."""
TEMPLATES = (
    *("a video of {}.", "a video of a person {}.", "a clip of {}.", "a person {}."),
    *("footage of someone {}.", "a video that shows {}.", "an example of {}.", "{}."),
)


@dataclass(eq=False)
class Video(Domain):
    """Clips. Each frame is encoded and stored by itself, as a part of its clip: methods see them, or their mean.

    Args:
        mirrored: whether a mirrored clip shows the same, as far as names tell.
        crops: of each frame.
        centre_share: of each side of a frame, which a single crop is made of.
        clips: of a video, that a tower sees one by one.
        augmentation: how clips are changed in training (`Reading.augmentation`).
    """

    name = "video"
    words: ClassVar = {
        "image": "clip",
        "images": "clips",
        "image.png": "clip.mp4",
        "patient": "video",
        "patients": "videos",
    }
    tasks = (*OF_CLASSES, "retrieval", "moments")
    reading = VideoReading
    metrics = ("top-five",)

    mirrored: bool = True
    crops: int = 1
    centre_share: float = 1.0
    clips: int = 1
    augmentation: Mapping[str, Any] = field(default_factory=dict)

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
        if task == "moments":
            reading.need_whole_frames("task moments uses")
        asked = replace(reading, moments=True) if task == "moments" else reading
        data = read_clips(Path(path), asked, task not in OF_CLASSES)
        named = self._named(data)
        data = named._with_views(with_shot_lists(data, Path(path), reading), reading)
        data.notes = [*data.notes, *reading.notes_on_unused(data, task)]
        if not reading.mirror_labels:
            return data
        return with_mirrored(replace(data, domain=replace(data.domain, mirrored=False)))

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

    def to_read_again(self, files: Sequence[str | Path]) -> list[str | Path]:
        """Videos, and the folders of frames."""
        videos, _ = VideoReading().formats
        return list(dict.fromkeys(file if videos.matches(Path(file)) else Path(file).parent for file in files))

    def to_index(self, data: DomainData, **options: Any) -> DomainData:
        """Videos in stretches of frames at `fps`, each frame to be found by itself; or clips as they are."""
        from .long_videos import in_stretches

        reading = self.reading_of(options)
        reading.need_whole_frames("an index holds")
        return in_stretches(data, reading.fps) if reading.entries == FRAMES else data

    def part_item(self, item: Item, part: int) -> Item | None:
        """A frame with its time."""
        from .long_videos import INSTANTS, frame_at

        return frame_at(item, part) if INSTANTS in item.decode else None

    def placed(self, item: Item) -> dict[str, float]:
        """Seconds at which the clip that was looked at begins and ends."""
        from .long_videos import looked_at

        start, end = looked_at(item)
        return {"start": round(start, 3), "end": round(end, 3)}

    def sample(self, task: str | None = None) -> DomainData:
        """240 clips of 8 motions, drawn on demand; no download."""
        from .drawn_clips import drawn_clip_pairs, drawn_clips
        from .drawn_moments import drawn_moments

        made = {"retrieval": drawn_clip_pairs, "moments": drawn_moments}.get(self.check_task(task), drawn_clips)()
        return replace(made, domain=self._named(made))

    def templates(self, task: str | None = None) -> list[str]:
        """Of clips; their features are averaged."""
        return list(TEMPLATES)

    @property
    def corruptions(self) -> Sequence[Corruption]:
        from .corruptions import CORRUPTIONS

        return CORRUPTIONS

    def transforms(self, backbone, train: bool, task: str | None = None) -> Callable[[Decoded], Any]:
        """Each frame by the backbone's own preprocessing; for training one crop, flip and change of colour per clip, as
        `augmentation` says, without the flip where class names hold a direction. Whole clips, for a tower that sees
        frames together."""
        from .transforms import ClipAugment, EachFrame, WholeClip

        if not train:
            frames = EachFrame(backbone.preprocess(False), self.crops, share=self.centre_share)
            joint = backbone.joint
            return frames if joint is None else WholeClip(frames, joint.parts, self.clips, joint.gives_parts)
        how = {**self.augmentation, **({} if self.mirrored else {"flip": 0.0})}
        augment = ClipAugment(backbone.image_size, tuple(backbone.image_mean), tuple(backbone.image_std), **how)
        return EachFrame(augment, clips=self.clips)

    def _with_views(self, data: DomainData, reading: VideoReading) -> DomainData:
        """The clips with how they are looked at."""
        views = None if data.kind == "captions" else reading.part_views
        domain = replace(
            self,
            crops=reading.crops,
            centre_share=reading.centre_share,
            clips=1 if views is None else reading.clips,
            augmentation=reading.augmentation,
        )
        data = replace(data, domain=domain)
        if views is None:
            return data
        note = (
            f"Predictions are averaged over {reading.clips} x {reading.crops} views of each clip ({views.average}); "
            "methods learn from the middle one."
        )
        return replace(data, part_views=views, notes=[*data.notes, note])

    def _named(self, data: DomainData) -> Video:
        """The domain of clips of which a mirror makes the names wrong, or does not."""
        texts = {*data.class_names, *(text for item in data.items for text in item.captions())}
        return replace(self, mirrored=not hold_a_direction(texts))
