"""The page on which images are labelled, each with a class or several."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..contracts.domain import Domain
from ..contracts.items import DomainData
from ..data.label_files import read_source, read_todo
from ..errors import ConfigError, DataError
from ..registry import load_domain
from ..runtime.local_page import LocalPage, user_name
from .answer_file import AnswerFile
from .options import LabelOptions

KEPT_STILLS = 8


class Labelling(LocalPage):
    """A list of images, their pictures, and the file of answers.

    Args:
        answers: the file.
        data: the images, among others.
        domain: whose they are.
        clock: seconds, for what pages are open.
    """

    command: ClassVar = "vladapt label"
    folder: ClassVar = Path(__file__).with_name("page")

    def __init__(
        self, answers: AnswerFile, data: DomainData, domain: Domain, clock: Callable[[], float] = time.monotonic
    ):
        super().__init__(clock)
        self.answers, self.domain, self.load = answers, domain, data.load
        by_id = {item.id: item for item in data.items}
        if gone := next((row.id for row in answers.todo if row.id not in by_id), None):
            raise DataError(f"image '{gone}' is no longer in the data; run vladapt select again")
        self.items = [by_id[row.id] for row in answers.todo]
        self._stills: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()

    def gets(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "/stills/{image:int}": lambda image: {"names": list(self.stills(image))},
            "/still/{image:int}/{number:int}": self.still,
            "/guess/{image:int}": self.guess,
        }

    def posts(self) -> Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        return {
            "/open": lambda body: self.state(),
            "/answer": self.answer,
            "/undo": lambda body: {"image": self.answers.undo()},
        }

    def state(self) -> dict[str, Any]:
        """What a page needs to begin."""
        said = self.answers.answers()
        images = [{"labels": list(row.labels), "answer": row.answer} if row else NOTHING_SAID for row in said]
        return {"classes": list(self.answers.source.classes), "several": self.answers.several, "images": images}

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What was said of an image."""
        image, labels, said = (body.get(name) for name in ("image", "labels", "answer"))
        texts = isinstance(labels, list) and all(isinstance(name, str) for name in labels)
        if type(image) is not int or not texts or not isinstance(said, str):
            raise ConfigError("an answer has an image, labels and an answer")
        self.answers.answer(image, list(labels or ()), said)
        return {}

    def guess(self, image: int) -> dict[str, Any]:
        """What the model, and the data, say of an image."""
        row = self.answers.todo[self._checked(image)]
        return {"guess": row.guess, "confidence": row.confidence, "given": row.given}

    def still(self, image: int, number: int) -> np.ndarray:
        """One of the pictures of an image."""
        pictures = list(self.stills(image).values())
        if number >= len(pictures):
            raise ConfigError(f"view {number}: there are {len(pictures)}")
        return pictures[number]

    def stills(self, image: int) -> dict[str, np.ndarray]:
        """The pictures of an image by name; the latest images' are kept.

        Raises:
            DataError: it cannot be decoded.
        """
        item = self.items[self._checked(image)]
        with self._lock:
            if image in self._stills:
                self._stills.move_to_end(image)
                return self._stills[image]
        made = self.domain.picture(item, self.load)
        with self._lock:
            self._stills[image] = made
            while len(self._stills) > KEPT_STILLS:
                self._stills.popitem(last=False)
        return made

    def _checked(self, image: int) -> int:
        if image >= len(self.items):
            raise ConfigError(f"image {image}: there are {len(self.items)}")
        return image


NOTHING_SAID = {"labels": [], "answer": ""}


def open_labelling(todo: str | Path, out: str | Path, how: LabelOptions) -> Labelling:
    """A table that `vladapt select` wrote, with its images and the file of answers, which is claimed.

    Raises:
        DataError, ConfigError: as `AnswerFile` and `read_source`; several labels for a set that has one per image.
    """
    rows, source = read_todo(todo)
    if how.several and source.labelled:
        raise ConfigError(f"--several: {todo} lists suspects of a set with one label per image; omit it")
    domain = load_domain(source.domain)
    reading = {} if how.root is None else {"root": how.root}
    data = read_source(Path(todo), source, domain, domain.check_task(source.task), reading)
    answers = AnswerFile(Path(out), rows, source, Path(todo), how.labeller or user_name(), how.several)
    try:
        return Labelling(answers, data, domain)
    except BaseException:
        answers.close()
        raise


def serve_labels(
    todo: str | Path,
    out: str | Path,
    how: LabelOptions,
    opened: Callable[[str, int, int], None] = lambda address, images, done: None,
) -> int:
    """Serve the page until Ctrl-C; how many images are labelled then.

    Args:
        todo, out, how: as of `open_labelling`.
        opened: called with the address, and how many images there are and are done.

    Raises:
        As `open_labelling`. CapabilityError: the server is not installed. ConfigError: the port is taken.
    """
    Labelling.require_server()
    labelling = open_labelling(todo, out, how)
    try:
        done = labelling.answers.count()
        labelling.serve(how.port, how.open, lambda address: opened(address, len(labelling.items), done))
        return labelling.answers.count()
    finally:
        labelling.answers.close()
