"""A run: a folder with what was fitted, how, on what and how well, and with what `eval` scored of it.

Data only; opening one runs no code of it. It remembers the images of its fit by digests, so that an evaluation can say
which of those it scores were among them.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from safetensors import SafetensorError

from ... import __version__
from ..backbones.specs import FILE
from ..contracts.recipe import RUNS, spec_of
from ..contracts.run_info import FittedRun, RunInfo, mapped_texts
from ..contracts.shown import in_short
from ..data.verify import count_shown_before
from ..errors import FULL, ConfigError, DataError
from ..runtime.files import claimed, file_stem, remove_abandoned, write_whole, writing_to
from ..runtime.process import installed_version
from ..runtime.reading import check_unchanged, json_plain, json_text, sha256_in, sha256_of
from .places import HUB, UNFINISHED, hub_run_folder, run_folder
from .redaction import check_backbone, redacted_values, shareable
from .sections import worded, words_of_run

if TYPE_CHECKING:
    from ..contracts.backbone import Backbone

FORMAT = 1
RUN_NAME = re.compile(r"\d{8}-\d{6}-.+-[0-9a-f]{4}")
KEYS = {
    "vladapt": str,
    "domain": (str, type(None)),
    "task": str,
    "adapter": str,
    "class_names": list,
    "backbone": (dict, type(None)),
    "recipe": dict,
}
"""What run.json cannot do without, and of which kind it is."""
OPTIONAL = {
    **dict.fromkeys(("plan", "data", "metrics", "splits", "adapter_options", "fit", "digests", "calibration"), dict),
    **dict.fromkeys(("base", "published", "judge", "losses", "settings", "versions", "sha256"), dict),
    **dict.fromkeys(("templates", "skipped", "notes"), list),
    "origin": str,
}
"""The same of what not every run has."""
LARGEST_BYTES = 1 << 30
DIGITS = 19
"""Of the longest whole number that a run may hold: those of 64 bits."""
VERSIONS_OF = ("vladapt", "torch", "torchvision", "numpy", "scikit-learn", "mmengine")
WHERE_USED = ("mmcv", "mmdet", "mmseg", "torchmetrics")
"""Modules whose versions count where a run has imported them."""
EVALUATIONS, METRICS = "evaluations", "metrics.json"
MOST_DIGESTS = 200_000
"""Images of a fit that its run remembers."""


@dataclass(eq=False)
class Run(FittedRun):
    """A run folder: run.json, metrics.json, adapter.safetensors, log.txt, report.html, and where confidences are
    calibrated calibration.safetensors.

    While it is being written it holds a marker, and `open` refuses it. As a context manager it is finished where the
    block ends well, and removed where it does not:

        with Run.create(None, "medical", "ape") as run:
            adapter.save(run.adapter_path)
            run.write(info, metrics)
    """

    __repr__ = in_short

    _made: list[Path] = field(default_factory=list, repr=False)
    _claim: IO[bytes] | None = field(default=None, repr=False)

    @classmethod
    def create(cls, out: str | Path | None, domain: str, adapter: str) -> Run:
        """A new folder `<time>-<domain>-<adapter>-<4 random hex digits>`.

        Args:
            out: the folder that holds runs; by default `runs`.
            domain, adapter: names, for the folder's name.

        Raises:
            DataError: nothing can be written there.
        """
        parent = Path(out) if out else RUNS
        made = [folder for folder in [parent, *parent.parents] if not folder.exists()]
        with writing_to(parent):
            parent.mkdir(parents=True, exist_ok=True)
            path = _new_folder(parent, f"{domain}-{adapter}")
            claim = claimed(path / UNFINISHED)
        return cls(path, _made=made, _claim=claim)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in a folder, or of the Hugging Face hub; a folder that holds a single run stands for it.

        Args:
            path: a folder, or `hf:OWNER/NAME[@REVISION]`, which is downloaded where the hub's cache does not have it.

        Raises:
            DataError: no such folder, no run, unfinished, of another version, or a missing or damaged file.
        """
        place = str(path) if str(path).startswith(HUB) else ""
        path = run_folder(Path(path) if not place else hub_run_folder(place))
        info = _read_json(path / "run.json")
        _check_version(path, info)
        missing = [key for key in KEYS if key not in info]
        if missing:
            raise DataError(f"{path / 'run.json'}: damaged, lacks {', '.join(missing)}; fit again")
        wrong = [key for key, kind in KEYS.items() if not isinstance(info[key], kind)]
        wrong += [key for key, kind in OPTIONAL.items() if not isinstance(info.get(key), (kind, type(None)))]
        wrong += ["digests" for each in _values(info.get("digests")) if not isinstance(each, list)]
        wrong += ["sha256" for each in _values(info.get("sha256")) if not isinstance(each, str)]
        if wrong:
            raise DataError(f"{path / 'run.json'}: damaged, {wrong[0]} is {str(info[wrong[0]])[:40]!r}; fit again")
        if not all(isinstance(name, str) for name in info["class_names"]):
            raise DataError(f"{path / 'run.json'}: damaged, class_names holds something other than names; fit again")
        if info["backbone"] is not None and not isinstance(info["backbone"].get("spec"), str):
            raise DataError(f"{path / 'run.json'}: damaged, backbone.spec is not the name of a backbone; fit again")
        if not (path / "adapter.safetensors").is_file():
            raise DataError(f"{path}: adapter.safetensors is missing; copy the whole run folder, or fit again")
        _check_files(path, info.get("sha256") or {})
        metrics = _read_json(path / METRICS) if (path / METRICS).exists() else info.get("metrics", {})
        typed = RunInfo.from_json(info)
        return cls(path, shareable(typed) if place else typed, metrics, place)

    @property
    def aside(self) -> Path:
        """Where evaluations of it are written: into its folder, but not into the hub's cache."""
        return RUNS / re.sub(r"[^A-Za-z0-9._-]+", "--", self.place.removeprefix(HUB)) if self.place else self.path

    def write(self, info: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Write run.json (`info`, the metrics, the format and this version) and metrics.json.

        Values are JSON-able or paths; NaN and infinity become null, which is all that JSON has for them.

        Raises:
            DataError: nothing can be written there.
        """
        self.metrics = json_plain(metrics)
        stamp = {"format": FORMAT, "vladapt": __version__}
        facts = without_place(json_plain(info))
        facts = {**stamp, **facts, **stamp, "origin": origin_of(self.path), "metrics": self.metrics}
        self.info = RunInfo.from_json(facts)
        write_whole(self.path / "run.json", dumped(facts))
        write_whole(self.path / METRICS, dumped(self.metrics))

    def log(self, text: str) -> None:
        """Append lines to log.txt, each with the time, in the words of the domain but for names of files.

        Raises:
            DataError: nothing can be written there.
        """
        now, words = f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M:%S%z}", words_of_run(self.info)
        lines = without_place(text).splitlines()
        lines = [line if line.startswith("skipped: ") else worded(line, words) for line in lines]
        with writing_to(self.path), (self.path / "log.txt").open("a", encoding="utf-8") as f:
            f.writelines(f"{now} {line}\n" for line in lines)

    def replace_adapter(self, save: Callable[[Path], Any]) -> None:
        """Write the adapter of a finished run anew.

        Args:
            save: writes the file at a path whole.

        Raises:
            DataError: nothing can be written there.
        """
        save(self.adapter_path)
        if self.info.sha256:
            self._keep_digests({**self.info.sha256, self.adapter_path.name: sha256_of(self.adapter_path)})

    def _keep_digests(self, digests: Mapping[str, str]) -> None:
        content = {**_read_json(self.path / "run.json"), "sha256": digests}
        write_whole(self.path / "run.json", dumped(content))
        self.info = self.info.with_(sha256=digests)

    def finish(self) -> None:
        """Take the marker away: from now on `open` reads the run, and finds out what has become of its files. Runs
        beside it whose processes were killed while they wrote them are removed."""
        if (self.path / "run.json").is_file():
            self._keep_digests(sha256_in(self.path, leave_out=("run.json",)))
        (self.path / UNFINISHED).unlink(missing_ok=True)
        self._release()
        others = (marker.parent for marker in self.path.parent.glob(f"*/{UNFINISHED}"))
        remove_abandoned([folder for folder in others if RUN_NAME.fullmatch(folder.name)], UNFINISHED)

    def discard(self) -> None:
        """Remove an unfinished run, and the folders that `create` made for it where nothing else is in them."""
        self._release()
        if not (self.path / UNFINISHED).exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):  # another run lies there
                folder.rmdir()

    def _release(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            try:
                self.finish()
            except BaseException:
                self.discard()
                raise
            return
        self.discard()
        if isinstance(error, SafetensorError) or getattr(error, "errno", None) in FULL:
            raise DataError.unwritable(self.path.parent, error) from error


def open_run(run: str | Path, backbone: str | Backbone | None = None) -> Run:
    """A run to be used: of a folder or of the hub.

    Args:
        backbone: where its backbone lies here, in place of what it says itself; it must be the same one.

    Raises:
        As `Run.open`; CapabilityError: its backbone was not published, and none is given.
        ConfigError: a backbone for a run without one.
    """
    opened, backbone = Run.open(run), spec_of(backbone)
    if backbone and not opened.info.backbone:
        raise ConfigError(f"--backbone {backbone}: {opened.shown} was made from a features file; omit it")
    if backbone:
        own = opened.info.backbone.spec  # a model's plan names it too
        parts = {part: opened.info[part] for part in ("backbone", "recipe", "plan") if part in opened.info}
        opened.info = opened.info.with_(**redacted_values(parts, lambda text: backbone if text == own else text))
    check_backbone(opened.info, opened.shown)
    return opened


def note_on_digests(info: RunInfo) -> list[str]:
    """That damage to the files of a run might not be found, where that is so."""
    return [] if info.sha256 else ["the run has no digests of its files, so damage to them might not be noticed"]


def _check_files(path: Path, digests: Mapping[str, str]) -> None:
    """Refuse a run whose files are not as they were written: those that are read where it is used. Pages and logs are
    not, towers only as a backbone, and for a lost metrics.json run.json stands in."""
    read = {name: each for name, each in digests.items() if name.endswith((".safetensors", ".json")) and name != FILE}
    if not (path / METRICS).exists():
        read.pop(METRICS, None)
    check_unchanged(path, read, "copy the whole run folder again, or fit again")


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _new_folder(parent: Path, what: str) -> Path:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", what)
    while True:
        path = parent / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{safe}-{secrets.token_hex(2)}"
        with suppress(FileExistsError):  # two fits in one second drew the same four digits
            path.mkdir()
            return path


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object of finite numbers."""
    if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
        raise DataError(f"{path}: not a file, or larger than any file of a run; copy the run again, or fit again")
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refused, parse_float=_finite, parse_int=_whole)
    except (ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{path}: damaged, not readable as JSON ({reason}); copy the run again, or fit again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: damaged, holds no JSON object; copy the run again, or fit again")
    return content


def _refused(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refused(text[:40])


def _whole(text: str) -> int:
    return int(text) if len(text) <= DIGITS + 1 else _refused(f"a number of {len(text)} digits")


def _check_version(path: Path, info: dict[str, Any]) -> None:
    """Older runs of the same format are read; newer ones may mean something else by the same words."""
    written_by = str(info.get("vladapt", "an unknown version"))
    if info.get("format") != FORMAT:
        raise DataError(
            f"{path}: written by vladapt {written_by} in run format {info.get('format')}, "
            f"vladapt {__version__} reads format {FORMAT}; use that version, or fit again"
        )
    if _release(written_by) > _release(__version__):
        raise DataError(
            f"{path}: written by vladapt {written_by}, newer than this {__version__}; upgrade vladapt, or fit again"
        )


def _release(version: str) -> tuple[int, ...]:
    """(major, minor)."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def without_place(value: Any) -> Any:
    """A nest of plain values whose texts name files in the working directory as they are named from there."""
    here = str(Path.cwd())
    if len(here) < 2:
        return value
    return mapped_texts(value, lambda text: "." if text == here else text.replace(here + os.sep, ""))


def origin_of(folder: Path) -> str | None:
    """The working directory, as it is found from a folder below it; None where the way there would tell its name."""
    way = os.path.relpath(Path.cwd(), folder.absolute())
    return way if set(Path(way).parts) <= {os.pardir} else None


def dumped(value: Mapping[str, Any]) -> str:
    return json_text(value, indent=2) + "\n"


def now() -> str:
    """Local time with its offset, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    by_name = {"python": platform.python_version()}
    by_name |= {name: installed_version(name) or "not installed" for name in VERSIONS_OF}
    for name in WHERE_USED:
        if name in sys.modules:
            by_name[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return by_name


def evaluation_folder(run: Path, source: str) -> Path:
    """A new name for an evaluation inside a run folder: `evaluations/<time>-<source>`.

    Args:
        source: the data, or the split of the run's own.
    """
    safe = file_stem(re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem)) or "data"
    parent, name = run / EVALUATIONS, f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{safe}"
    taken = len(list(parent.glob(f"{name}*"))) if parent.is_dir() else 0
    return parent / (f"{name}-{taken + 1}" if taken else name)


def write_metrics(folder: Path, result: Mapping[str, Any]) -> Path:
    """The result of an evaluation as metrics.json; makes the folder.

    Raises:
        DataError: nothing can be written there.
    """
    make_folder(folder)
    write_whole(folder / METRICS, dumped(result))
    return folder / METRICS


def make_folder(folder: Path) -> None:
    """A folder and its parents.

    Raises:
        DataError: it cannot be made.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)


def kept_digests(parts: Mapping[str, Sequence[Any]], digests: Callable[[Any], list[str]]) -> dict[str, Any]:
    """What run.json keeps of the images of a fit: their digests by what they did there ("train", "val"), or their
    number alone where they are too many.

    Args:
        parts: what each part holds.
        digests: a part -> digests of its images.
    """
    count = sum(map(len, parts.values()))
    return {"too_many": count} if count > MOST_DIGESTS else {name: digests(part) for name, part in parts.items()}


def in_the_fit(info: RunInfo, digests: Callable[[], Sequence[str]]) -> dict[str, Any]:
    """How many images of an evaluation show what an image of the fit showed.

    Args:
        info: run.json.
        digests: makes those of the images that are scored; called where the run says what was in its fit.

    Returns:
        "in_fit": their number, or None where the run does not say; "in_fit_words": the sentence on it, which an
        evaluation begins with.
    """
    of_run = info.digests
    if info.published:
        why = "it was published without a record of its images"
    elif of_run is None:
        why = "the run was made by an older version"
    elif "too_many" in of_run:
        why = f"it had {of_run['too_many']:,} images, and a run remembers at most {MOST_DIGESTS:,}"
    elif any(digest == "" for side in of_run.values() for digest in side):
        why = "some of its images were not files"
    else:
        of_fit, scored = {digest for side in of_run.values() for digest in side}, digests()
        count = count_shown_before(scored, of_fit)
        return {"in_fit": count, "in_fit_words": _in_fit_words(count, len(scored), scored.count(""))}
    return {"in_fit": None, "in_fit_words": f"Whether some of these images were in the fit is not known: {why}."}


def _in_fit_words(count: int, images: int, unknown: int) -> str:
    were = "was" if count == 1 else "were"
    text = f"{count or 'None'} of the {images} images {were} in the fit."
    text += " The scores are too high, because the model learned from them." if count else ""
    return text if not unknown else f"{text} {unknown} of them are not files, so they cannot be compared."
