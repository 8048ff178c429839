"""What a fit that changed the towers did to all else they knew: a generic vocabulary before and after."""

from __future__ import annotations

from typing import Any

from ..contracts.backbone import Backbone
from ..runtime.distributed import is_main, run_on_all
from ..runtime.progress import Reporter
from .probe import GenericProbe, generic_metrics, generic_sentence


def forgetting(
    before: Backbone,
    after: Backbone,
    reporter: Reporter,
    *,
    generic: str | None = None,
    workers: int | None = None,
    amp: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Zero-shot accuracy of both on drawings, or on the images of the folder `generic`.

    Returns:
        {"generic": ...} for metrics.json, and a sentence; ({}, "") on all ranks but the first.

    Raises:
        DataError: the generic images cannot be used.
    """

    def on_the_first() -> tuple[dict[str, Any], str]:
        if not is_main():
            return {}, ""
        probe = probe_of(generic)
        reporter.say(f"Naming {len(probe.data.items)} generic images before and after")
        scores = [probe.accuracy(backbone, workers=workers, amp=amp) for backbone in (before, after)]
        return generic_metrics(*scores), generic_sentence(*scores)

    return run_on_all(on_the_first)


def probe_of(generic: str | None) -> GenericProbe:
    """The probe of a folder of class folders, or of drawings."""
    return GenericProbe.from_folder(generic) if generic else GenericProbe.drawn()
