"""Which languages a text tower learned, as far as its name says."""

from __future__ import annotations

import re

from ..contracts.backbone import Backbone

ENGLISH = "en"
MANY = re.compile(
    r"xlm|nllb|m-?clip|multilingual|siglip-?2(?!\d)|i18n|mexma|altclip-?m\d|jina-clip-v2|labse", re.IGNORECASE
)
"""Families of towers that learned many languages."""
OF_ONE = {
    "zh": re.compile(r"chinese|cn[-_]clip|taiyi|altclip|r2d2", re.IGNORECASE),
    "ja": re.compile(r"japanese|(?<![a-z])ja-clip|rinna|clip-japanese", re.IGNORECASE),
    "ko": re.compile(r"kelip|ko-?clip|korean", re.IGNORECASE),
}
"""Code -> families that learned that language, some of them beside English."""


def note_on_language(backbone: Backbone, code: str, language: str) -> str | None:
    """A sentence on a tower that is not known to have learned a language; None for one that has, or has no texts.

    Args:
        code: of the language, "de" or "de-AT".
        language: its name.
    """
    code = code.lower().partition("-")[0]
    spec, one = backbone.spec, OF_ONE.get(code)
    if not backbone.has_text or code == ENGLISH or MANY.search(spec) or (one is not None and one.search(spec)):
        return None
    return (
        f"Backbone {spec} is not known to have learned {language}: compare with a fit without --language, or take a "
        "multilingual tower."
    )
