"""Images unlike those of the fit, of which an answer means little: told by their distance to the nearest of the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contracts.judgement import PREDICT, JudgedPredictions, Judgement
from ..contracts.run_info import Record
from ..runs.sections import plural


@dataclass(frozen=True, eq=False)
class UnlikeRecord(Record):
    """Which images are unlike those of the fit."""

    unlike: tuple[bool, ...]

    def note(self) -> str:
        count, what = sum(self.unlike), plural(len(self.unlike), "image")
        if not count:
            return ""
        return (
            f"{count} of {what} {'is' if count == 1 else 'are'} unlike those of the fit; the "
            f"answer{'s' * (count != 1)} for {'it' if count == 1 else 'them'} mean{'s' * (count == 1)} little (one in "
            "20 ordinary images is flagged too)"
        )


@dataclass(eq=False, kw_only=True)
class UnlikeImages(Judgement):
    """Of runs that know how far ordinary images are from those of the fit; see `core/confidence/selective.py`."""

    record: ClassVar = UnlikeRecord
    judges: ClassVar = JudgedPredictions
    at: ClassVar = frozenset({PREDICT})
    columns: ClassVar = {"unlike": "unlike the fit"}
    needs: ClassVar = frozenset({"calibration"})

    def compute(self, predictions: JudgedPredictions) -> UnlikeRecord | None:
        unlike = predictions.calibration.unlike
        if unlike is None or unlike.support.shape[1] != predictions.features.shape[1]:
            return None
        return UnlikeRecord(tuple(unlike.flags(predictions.features).tolist()))
