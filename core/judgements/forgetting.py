"""What a training of towers did to a model's general ability: the generic probe, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..contracts.judgement import FIT, JudgedFit, Judgement, Place
from ..forgetting.probe import forgetting
from ..forgetting.score import Forgotten


@dataclass(eq=False, kw_only=True)
class Forgetting(Judgement):
    """Zero-shot accuracy on generic images, of fits that changed the towers."""

    record: ClassVar = Forgotten
    judges: ClassVar = JudgedFit
    at: ClassVar = frozenset({FIT})
    needs: ClassVar = frozenset({"changed_towers"})
    place: ClassVar = Place.ABILITIES

    def compute(self, fit: JudgedFit) -> Forgotten | None:
        how = {"generic": fit.generic, "workers": fit.workers, "amp": fit.amp}
        return forgetting(fit.before, fit.after, fit.reporter, **how)
