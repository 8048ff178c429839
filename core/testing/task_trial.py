"""A task to check: small recipes for it, fits that leave nothing behind, and what its rules share: one run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from ..contracts.domain import Domain
from ..contracts.options import options_of
from ..contracts.recipe import KEYS, Recipe
from ..contracts.task import FitResult, Task, Use
from ..errors import CapabilityError
from ..recipes.resolve import resolve
from ..runs.folder import Run
from ..runtime.progress import Reporter
from ..training.samples import seed_everything
from .contract import ContractError, OwnFolder, attempted, given
from .towers import small_clip

QUIET = Reporter(quiet=True)


class TaskTrial(OwnFolder):
    """A task to check.

    Args:
        cls, domain, images: as for `task_checks`.
        keys: of a small recipe.
    """

    def __init__(
        self,
        cls: type[Task],
        domain: Domain | None = None,
        keys: Mapping[str, Any] = MappingProxyType({}),
        images: Sequence[str | Path] = (),
    ):
        self.cls, self.domain, self.given = cls, domain, dict(keys)
        self._images = list(images)

    @property
    def title(self) -> str:
        return f"task '{self.cls.name or self.cls.__name__}'"

    def new(self) -> Task:
        """One of its own for each command, as a command makes it."""
        return self.cls(self.domain)

    def recipe(self, **changes: Any) -> Recipe:
        """What is fitted, not settled; by default on the CPU and, where the task takes a backbone, on small towers."""
        keys = {"device": "cpu", **self.given, **changes}
        made = self._resolved(keys)
        task = self.new()
        if "backbone" in task.taken(task.filled(made)) and not made.gave("backbone"):
            made = self._resolved({**keys, "backbone": small_clip().spec})
        return made

    def fit(self, out: str = "runs", **changes: Any) -> FitResult | None:
        """A new fit, in a folder of its own below `folder`.

        Raises:
            Whatever the fit raises.
        """
        task = self.new()
        settled = task.settled(self.recipe(out=str(self.folder / out), **changes))
        with self.apart():
            return task.fit(settled, QUIET)

    @property
    def fitted(self) -> FitResult:
        """The fit that the rules share.

        Raises:
            ContractError: it cannot be fitted.
        """
        return given(self._fitted)

    @property
    def run(self) -> Run:
        """Of the shared fit."""
        return Run.open(self.fitted.run)

    @property
    def keeps_a_run(self) -> bool:
        """Whether the run of a fit is used again; what is not need be no run folder."""
        return not {"evaluate", "predict"} <= self.cls.refusals.keys()

    def use(self, run: Run | None = None, **fields: Any) -> Use:
        return Use(run or self.run, device="cpu", **fields)

    def evaluate(self, use: Use) -> dict[str, Any]:
        """The scores of a run, checked as a command would."""
        task = self.new()
        task.check_use(use, "evaluate")
        with self.apart():
            return task.evaluate(use, QUIET)

    def predict(self, images: Sequence[str | Path], run: Run | None = None, **fields: Any) -> Any:
        """What a run says of images, checked as a command would."""
        task, use = self.new(), self.use(run, images=tuple(images), **fields)
        task.check_use(use, "predict")
        with self.apart():
            return task.predict(use, QUIET)

    @property
    def predicts(self) -> bool:
        """Whether its runs can be asked of new images; a CapabilityError of one line says that they cannot."""
        if "predict" in self.cls.refusals:
            return False
        return not (isinstance(self.predicted, CapabilityError) and "\n" not in str(self.predicted))

    @cached_property
    def predicted(self) -> Any:
        """What the shared fit says of the images, or the error that it raises."""
        try:
            return self.predict(self.images)
        except CapabilityError as error:
            return error

    @cached_property
    def images(self) -> list[str | Path]:
        """New images, drawn where none are given."""
        if self._images:
            return self._images
        files = [self.folder / f"image-{number}.png" for number in range(2)]
        for number, file in enumerate(files):
            pixels = np.random.default_rng(number).integers(0, 255, (32, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(file)
        return files

    @contextmanager
    def apart(self) -> Iterator[None]:
        """With a feature store of its own, not the user's."""
        with mock.patch.dict(os.environ, {"VLADAPT_CACHE": str(self.folder / "cache")}):
            yield

    @contextmanager
    def unread(self) -> Iterator[list[str]]:
        """With a domain that notes what is read of it, in place of reading."""
        noted: list[str] = []
        if self.domain is None:
            yield noted
            return

        def note(name: str):
            def read(*args: Any, **options: Any) -> Any:
                noted.append(name)
                raise LookupError(name)

            return read

        replaced = {name: note(name) for name in ("read", "sample")}
        with mock.patch.multiple(self.domain, **replaced):
            yield noted

    @cached_property
    def _fitted(self) -> FitResult | ContractError:
        seed_everything(0)
        result = attempted(f"{self.title}: cannot be fitted", self.fit)
        if isinstance(result, (FitResult, ContractError)):
            return result
        return ContractError([f"{self.title}: its fit returns {type(result).__name__}, not a FitResult"])

    def _resolved(self, given: Mapping[str, Any]) -> Recipe:
        """A recipe of these keys, among which are options of the task."""
        options = {each.name for each in options_of(self.cls.options)} if self.cls.options is not None else set()
        own = {key: value for key, value in given.items() if key in options - KEYS.keys()}
        shared = {key: value for key, value in given.items() if key not in own}
        name = None if self.domain is None else self.domain.name
        return resolve(flags={**shared, "domain": name}, domain=self.domain).with_(task_options=own)
