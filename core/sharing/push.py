"""`push_folder`: a run as a folder in the layout of the Hugging Face hub, and with `--upload` as a repository there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..backbones.hub import REPOSITORY
from ..backbones.specs import NON_COMMERCIAL
from ..contracts.pair_head import PairHead
from ..contracts.run_info import BeforeAfter, RunInfo
from ..contracts.task import Task
from ..errors import CapabilityError, ConfigError, DataError, UnknownNameError
from ..export.package import new_folder
from ..registry import adapter_class
from ..runs.folder import Run, dumped
from ..runs.places import CARD, FILES
from ..runs.redaction import Privacy, leaks, redacted_values, shareable
from ..runtime.files import write_whole
from ..runtime.reading import sha256_in
from .card import Card, PublisherWords, check_card, check_licence
from .upload import check_login, upload

DIGITS = 16
WIDENED, OF_HEADS = "changed/input.", "changed/"
"""Tensors of a layer that was made anew for more channels; of towers that were trained with a head."""
TENSORS = tuple(name for name in FILES if name.endswith(".safetensors"))


@dataclass
class Pushed:
    """What was written.

    Attributes:
        folder: where it lies.
        address: of the repository, where it was uploaded; else "".
        notes: sentences for the user.
    """

    folder: Path
    address: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


def push_folder(
    run: Run,
    task: Task,
    told: PublisherWords,
    *,
    out: str | Path | None = None,
    upload_it: bool = False,
    public: bool = False,
) -> Pushed:
    """Write the folder of a published run, and upload it if asked to.

    Args:
        run: the run.
        task: that made it.
        told: the repository's name, and what the user says of licences and data.
        out: the folder; by default the repository's name without its owner, here.
        upload_it: whether to upload. A folder that an earlier call wrote of this run is uploaded as it is, with what
            was changed in its card since.
        public: whether a repository that is made for it is public.

    Raises:
        ConfigError: no name of a repository. CapabilityError: weights that are not for everybody, or a run that is
        nothing without another one. DataError: the folder is there, or the upload fails.
    """
    _check(run, told)
    if upload_it:
        check_login(told.repo)
    folder, digest = Path(out or told.repo.rpartition("/")[2]), _digest(run.adapter_path)
    notes: list[str] = []
    if folder.exists() or folder.is_symlink():
        _check_again(folder, digest, upload_it)
        notes.append(f"the folder {folder} existed already and is uploaded unchanged")
    else:
        notes += _write(run, task, told, folder, digest)
    if not upload_it:
        return Pushed(folder, "", notes)
    check_card((folder / CARD).read_text(encoding="utf-8"), str(folder / CARD))
    _check_untold(folder, run.info)
    address, made = upload(folder, told.repo, public)
    if made and not public:
        notes.append("the new repository is private; make it public in its settings on the hub, or push with --public")
    return Pushed(folder, address, notes)


def _check(run: Run, told: PublisherWords) -> None:
    """Raise what can be told before anything is written."""
    if find_spec("huggingface_hub") is None:
        raise CapabilityError("push needs huggingface_hub; install it with: pip install 'vladapt[sharing]'")
    if not REPOSITORY.fullmatch(told.repo) or re.search(r"^[.-]|/[.-]|--|\.\.|[.-](?:/|$)", told.repo):
        raise ConfigError(
            f"{told.repo}: not the name of a repository; write OWNER/NAME, and give the folder with --out"
        )
    check_licence("--licence", told.licence)
    if run.place:
        raise ConfigError(f"{run.place}: is published already; push a run of your own")
    spec, licence = run.info.weights
    if NON_COMMERCIAL.search(licence) and holds_tower_weights(run):
        raise CapabilityError(
            f"{run.path}: '{run.info.adapter}' keeps weights of {spec}, which are under {licence} and "
            "are not copied; push a method that keeps none (lora, coop, tip-adapter), or one on another backbone"
        )
    if run.info.base:
        raise CapabilityError(f"{run.path}: needs the run that it started from; push a run that needs no other")


def holds_tower_weights(run: Run) -> bool:
    """Whether the file of a run holds weights of its backbone, as they are or changed. Of what is no method of ours (a
    detector that was trained by a config) it is taken to be so."""
    try:
        cls = adapter_class(run.info.adapter)
    except UnknownNameError:
        return True
    with safe_open(str(run.adapter_path), framework="pt") as file:
        of_towers = OF_HEADS if issubclass(cls, PairHead) else WIDENED
        return cls.tower_weights or any(name.startswith(of_towers) for name in file.keys())  # noqa: SIM118


def _check_again(folder: Path, digest: str, upload_it: bool) -> None:
    """Raise the DataError of a folder that is there and cannot be uploaded as this run."""
    try:
        there = json.loads((folder / "run.json").read_text(encoding="utf-8"))["published"]["adapter"]
    except (OSError, ValueError, KeyError, TypeError):
        there = None
    if there != digest:
        raise DataError(f"{folder}: exists and is not this run; give --out with the name of a new folder")
    if not upload_it:
        raise DataError(
            f"{folder}: exists from an earlier push; add --upload to upload it unchanged, or remove it to write it "
            "again"
        )


def _write(run: Run, task: Task, told: PublisherWords, folder: Path, digest: str) -> list[str]:
    """Write the folder; sentences for the user."""
    info, privacy = shareable(run.info), Privacy(run.info)
    data = {**info.data, "licence": told.data_licence or info.data.licence or "unknown"}
    data |= {"name": told.dataset, "named": True} if told.dataset else {}
    info = info.with_(published={**info.published, "adapter": digest}, data=data)
    metrics = redacted_values(run.metrics, privacy.text)
    verdict = privacy.text(task.verdict(run.metrics))
    card = Card(info, BeforeAfter.from_json(metrics), told, verdict, task.domain, holds_tower_weights(run))
    with new_folder(folder) as partial:
        for name in TENSORS:
            if (run.path / name).is_file():
                _copy_tensors(run.path / name, partial / name, privacy)
        write_whole(partial / "metrics.json", dumped(metrics))
        write_whole(partial / "run.json", dumped({**info, "sha256": sha256_in(partial), "metrics": metrics}))
        write_whole(partial / CARD, card.text())
        _check_untold(partial, run.info)
    return list(_notes(card))


def _notes(card: Card) -> Iterator[str]:
    if card.unknown:
        flags = {"the adapter": "--licence", "the data": "--data-licence"}
        cures = [flags[what] for what in card.unknown if what in flags]
        said = f'the card says "unknown" for the licence of {" and of ".join(card.unknown)}'
        yield f"{said}; {' and '.join(cures)} say{'s' * (len(cures) == 1)} it" if cures else said
    if not card.dataset:
        yield "the card does not name the data set, since its name may be that of a folder; --dataset names it"
    if card.own_backbone:
        yield f"the backbone '{card.spec}' is your own file and is not pushed; who loads the run needs it (--backbone)"


def _copy_tensors(source: Path, target: Path, privacy: Privacy) -> None:
    """Copy a file of tensors; where the words in its head tell what should not be told, without these."""
    with safe_open(str(source), framework="pt") as file:
        head = dict(file.metadata() or {})
    told = {key: _cleaned_words(value, privacy) for key, value in head.items()}
    if told == head:
        shutil.copyfile(source, target)
    else:
        save_file(load_file(source), str(target), metadata=told)


def _cleaned_words(text: str, privacy: Privacy) -> str:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return privacy.text(text)
    clean = redacted_values(value, privacy.text)
    return text if clean == value else json.dumps(clean)


def _check_untold(folder: Path, info: RunInfo) -> None:
    """Raise the DataError of a published file that names a sample or a folder of this machine."""
    texts = [(name, (folder / name).read_text(encoding="utf-8")) for name in ("run.json", "metrics.json", CARD)]
    for name in TENSORS:
        if (folder / name).is_file():
            with safe_open(str(folder / name), framework="pt") as file:
                texts.append((name, " ".join((file.metadata() or {}).values())))
    if found := leaks(texts, info):
        raise DataError(f"{folder.name}: {found}, which should not be shared; remove it from the card or from the run")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]
