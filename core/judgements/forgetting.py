"""What a training of towers did to a model's general ability: the generic probe, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contracts.judgement import FIT, JudgedFit, Judgement, Place
from ..forgetting.probe import probe_of
from ..forgetting.score import Forgotten
from ..runtime.distributed import is_main, run_on_all


@dataclass(eq=False, kw_only=True)
class Forgetting(Judgement):
    """Zero-shot accuracy on generic images, of fits that changed towers which name images."""

    record: ClassVar = Forgotten
    judges: ClassVar = JudgedFit
    at: ClassVar = frozenset({FIT})
    needs: ClassVar = frozenset({"changed_towers", "reads_texts"})
    place: ClassVar = Place.ABILITIES

    def compute(self, fit: JudgedFit) -> Forgotten | None:
        """None on all ranks but the first, which names the generic images.

        Raises:
            DataError: they cannot be used.
        """

        def on_the_first() -> Forgotten | None:
            if not is_main():
                return None
            probe = probe_of(fit.generic)
            fit.reporter.info(f"Naming {len(probe.data.items)} generic images before and after")
            towers = (fit.before, fit.after)
            with fit.reporter.watching("Generic vocabulary"):
                return Forgotten.of_scores(*(probe.accuracy(each, workers=fit.workers, amp=fit.amp) for each in towers))

        return run_on_all(on_the_first)
