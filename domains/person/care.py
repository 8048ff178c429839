"""Care with pictures of people: what reports and logs leave out, and what a run says about its use.

People may be recognised by pictures and by names of files, so a report shows none and nothing that is written names
any, unless the user says `--show-people`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.contracts import DomainData, RunInfo, option, settle
from ...core.runs import ListSection, Redaction
from ...core.runtime import write_whole
from .pedestrian import Pedestrian

CARD = "CARD.md"
NOTHING_TRAINED = "* Nothing was trained here: the backbone is as it was published."
HEADING = "Before you use it on people"
CONSENT = (
    "Identifying people, or finding one person again, may need their consent, a legal basis or a notice, and is "
    "unlawful in some places and for some purposes. Find out before you run this on pictures of people.",
    "A match is a lead, not proof: people who look alike are confused, most of all across cameras, light and clothes "
    "that the training has not seen. Let a person decide, and let those concerned object.",
    "How well it works differs from camera to camera and between groups of people. Read the tables by camera and by "
    "attribute, and test on pictures from the place where it will be used.",
)


@dataclass(frozen=True, kw_only=True)
class PeopleOptions:
    """Options of every task on pictures of people."""

    show_people: bool = option(False, "show pictures of people in reports, and name their files")

    def __post_init__(self):
        settle(self)


class PeopleHidden(Redaction):
    """What is written of a set of pictures of people, unless `--show-people` is given: names of samples become numbers,
    identities too.
    """

    def info(self, info: RunInfo) -> RunInfo:
        """What run.json holds. Where the data lie stays, so that the run can be scored again."""
        return super().info(info).with_(**{key: info[key] for key in ("recipe", "data") if key in info})


def care_section() -> ListSection:
    """For every report of the domain."""
    return ListSection(HEADING, list(CONSENT))


def people_in_words(data: DomainData) -> str:
    """ "24 identities in 144 pictures of 3 cameras"."""
    targets = [item.target for item in data.items if isinstance(item.target, Pedestrian)]
    identities = {target.identity for target in targets} - {None}
    cameras = {target.camera for target in targets} - {""}
    words = f"{len(data.items):,} picture{'s' * (len(data.items) != 1)}"
    if identities:
        words = f"{len(identities):,} {'identity' if len(identities) == 1 else 'identities'} in {words}"
    return f"{words} of {len(cameras):,} camera{'s' * (len(cameras) != 1)}" if cameras else words


def write_card(folder: Path, info: RunInfo, data: DomainData, scores: Sequence[str]) -> Path:
    """Write the run's card, `CARD.md`: what it is, what it was trained on, how well it does, what to mind.

    Args:
        folder: of the run.
        info: what run.json holds.
        data: that the run was fitted on.
        scores: a sentence each.

    Raises:
        DataError: nothing can be written there.
    """
    trained = data.with_items([item for item in data.items if item.split != "test"])
    tested = data.with_items(data.split("test"))
    name = f"{info.data.name or 'a data set'} (licence: {info.licences['data']})"
    taught = f"* Trained on: {people_in_words(trained)} of {name}."
    taught = NOTHING_TRAINED if info.adapter == "zero-shot" else taught
    lines = [
        f"# {info.adapter} for {info.task}",
        "",
        taught,
        f"* Tested on: {people_in_words(tested)} of {name}, none of whom it was trained on.",
        f"* Backbone: {info.backbone.spec} (licence: {info.licences['weights']}).",
        *(f"* {sentence}" for sentence in scores),
        *("* " + note for note in info.notes),
        "",
        f"## {HEADING}",
        "",
        *(f"* {sentence}" for sentence in CONSENT),
        "",
    ]
    path = Path(folder) / CARD
    write_whole(path, "\n".join(lines))
    return path
