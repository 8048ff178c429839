"""Which towers are known to have learned a language."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vladapt.core.backbones.languages import note_on_language


def note(spec: str, code: str, has_text: bool = True) -> str | None:
    return note_on_language(SimpleNamespace(spec=spec, has_text=has_text), code, "the language")


@pytest.mark.parametrize(
    ("spec", "code", "learned"),
    [
        ("embedded", "de", False),
        ("open_clip:ViT-B-16-SigLIP-256/webli", "de", False),
        ("open_clip:ViT-B-16-SigLIP2-256/webli", "de", True),
        ("open_clip:ViT-B-16-SigLIP-i18n-256/webli", "sw", True),
        ("open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "de", True),
        ("hf:OFA-Sys/chinese-clip-vit-base-patch16", "zh", True),
        ("hf:OFA-Sys/chinese-clip-vit-base-patch16", "ja", False),
        ("hf:BAAI/AltCLIP", "zh-Hans", True),
        ("embedded", "en", True),
    ],
)
def test_families_are_known_by_their_names(spec, code, learned):
    assert (note(spec, code) is None) == learned


def test_the_note_names_tower_and_language_and_a_tower_without_texts_has_none():
    assert "embedded is not known to have learned the language" in note("embedded", "de")
    assert note("timm:vit", "de", has_text=False) is None
