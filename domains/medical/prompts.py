"""The words around a class name, by modality, from `prompts.json`."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from ...core.contracts.errors import UnknownNameError, did_you_mean

PROMPTS_FILE = Path(__file__).with_name("prompts.json")
GENERAL = "general"


def check_modality(modality: str | None) -> str:
    """The modality's name, "general" for None.

    Raises:
        UnknownNameError: there are no prompts for it; the message names the nearest.
    """
    name = (modality or GENERAL).strip().lower()
    if name not in prompts():
        raise UnknownNameError(f"option modality: unknown modality '{modality}'; {did_you_mean(name, prompts())}")
    return name


@lru_cache(maxsize=1)
def prompts() -> dict[str, dict[str, list[str]]]:
    """Modality -> "templates" and "negative" ones, each with one `{}`."""
    return json.loads(PROMPTS_FILE.read_text(encoding="utf-8"))
