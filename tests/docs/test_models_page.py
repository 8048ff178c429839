"""docs/models.md: the models, commands and capabilities that it names are there."""

import re
from pathlib import Path

import pytest

from vladapt.core.backbones.specs import find_published, published
from vladapt.core.contracts.backbone import CAPABILITIES
from vladapt.core.registry import build_adapter

OF_SLIDES = ("uni", "uni2", "virchow2", "h", "prov")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_every_alias_of_the_page_is_in_the_table():
    named = re.findall(r"--backbone (\S+)|--resource keys=(\S+)|vladapt show (\S+)", PAGE)
    named = [alias for group in named for alias in group if alias]
    assert len(named) >= 5
    named = [alias for alias in named if not alias.startswith(("timm:", "torchgeo:", "encoder.py:"))]
    assert [alias for alias in named if find_published(alias) is None] == []


def test_the_command_that_fetches_a_model_is_the_lists_own():
    assert find_published("biomedclip").fetch_command() in PAGE


def test_every_capability_is_explained():
    section = PAGE.partition("## Capabilities")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) >= set(CAPABILITIES)


def test_what_the_page_says_lacks_a_capability_does():
    lacks = {capability: {e.alias for e in published() if capability not in e.can} for capability in CAPABILITIES}
    assert {alias.partition("-")[0] for alias in lacks["trim"]} == {
        *("siglip", "siglip2", "medsiglip", "mobileclip", "mobileclip2", "dinov2", "dinov3", "rad"),
        *OF_SLIDES,
    }
    assert {"openai-rn50", "laion-convnext-base-w", "mobileclip-s1"} <= lacks["image_blocks"]
    assert {alias.partition("-")[0] for alias in lacks["prompt"]} == {"dinov2", "dinov3", "rad", *OF_SLIDES}


@pytest.mark.parametrize("adapter", ["linear-probe", "tip-adapter", "tip-adapter-f", "gda"])
def test_methods_that_the_page_calls_free_of_texts_are(adapter):
    assert f"`{adapter}`" in PAGE and build_adapter(adapter).text_free


def test_models_that_are_not_in_the_table_are_not():
    left_out = PAGE.partition("## What is not in the table")[2]
    assert "GeoRSCLIP ViT-L-14" in left_out
    aliases = {entry.alias for entry in published()}
    assert not aliases & {"georsclip-vit-l-14", "quiltnet-b-16-pmb", "chinese-clip-vit-h-14", "dinov2-g"}
