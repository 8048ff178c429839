"""Whether test images taught the run that a fit starts from: scores of what starts from it are then too high."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..contracts.judgement import COMPARE, FIT, JudgedData, Judgement
from ..contracts.run_info import Record


@dataclass(frozen=True, eq=False)
class TaughtByTest(Record):
    """Test images among those of the run that is started from.

    Attributes:
        path: of the run, as it was given.
        taught: test images that it was fitted on.
        tested: test images.
    """

    path: str
    taught: int
    tested: int

    def to_json(self) -> dict[str, Any]:
        return {}

    def note(self) -> str:
        return (
            f"{self.taught} of the {self.tested} test images were used to fit the run {self.path}, so scores of what "
            "starts from it are too high; fit both on the same split"
        )


@dataclass(eq=False, kw_only=True)
class BaseRun(Judgement):
    """Of data of which a part taught the run that `--resource base=RUN` names."""

    record: ClassVar = TaughtByTest
    judges: ClassVar = JudgedData
    at: ClassVar = frozenset({FIT, COMPARE})
    needs: ClassVar = frozenset({"base"})

    def compute(self, data: JudgedData) -> TaughtByTest | None:
        base, read = data.base, data.prepared.data
        if base.run.info.data.name != read.name:
            return None
        test, splits = {item.id for item in read.split("test")}, base.run.info.splits
        taught = len({*splits.get("support", ()), *splits.get("val", ())} & test)
        return TaughtByTest(base.path, taught, len(test)) if taught else None
