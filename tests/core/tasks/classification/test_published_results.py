"""Published accuracies stand beside ours only where all else is the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vladapt.core.backbones.specs import alias_of, published
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import catalogue
from vladapt.core.tasks.classification.protocols import (
    ELEVEN,
    PROTOCOLS,
    PUBLISHED,
    Setting,
    are_eleven,
    note_on_published,
    rows_of_backbone,
)
from vladapt.core.tasks.classification.task import Classification
from vladapt.domains.natural.known_sets import set_names

TIP = Setting("openai-rn50", "full-val", "imagenet")


def test_every_row_names_what_there_is():
    content = json.loads(Path(PUBLISHED).read_text())
    aliases = {entry.alias for entry in published()}
    keys = [tuple(row.get(key, "") for key in ("method", "backbone", "protocol", "set", "tasks")) for row in
            content["results"]]  # fmt: skip
    assert len(set(keys)) == len(keys) and set(content["eleven"]) <= set(set_names())
    for row in content["results"]:
        assert row["method"] in catalogue.adapters() and row["backbone"] in aliases and row["source"]
        assert row["protocol"] in PROTOCOLS and row["set"] in (ELEVEN, *set_names())
        assert all(10 < value < 100 for value in row["accuracy"].values())
    means = [(row["method"], row["backbone"]) for row in content["means"]]
    assert len(set(means)) == len(means)
    for row in content["means"]:
        assert row["method"] in catalogue.adapters() and row["backbone"] in aliases and row["source"] and row["sets"]
        assert 10 < row["zero_shot"] < row["accuracy"] < 100


@pytest.mark.parametrize(
    ("setting", "method", "shots", "percent"),
    [
        (TIP, "tip-adapter", 16, 62.01),
        (TIP, "tip-adapter", 1, 60.70),
        (replace(TIP, backbone="open_clip:RN50-quickgelu/openai"), "tip-adapter", 16, 62.01),
        (TIP, "zero-shot", 16, 60.32),
        (replace(TIP, set="dtd"), "tip-adapter-f", 16, 66.55),
        (replace(TIP, set=ELEVEN), "ape", 1, 65.13),
        (replace(TIP, protocol="coop"), "coop", 16, 62.97),
        (Setting("openai-vit-b-16", "transductive", "eurosat", "all"), "transclip", 0, 65.42),
        (Setting("openai-rn50", "transductive", "imagenet_a", "all"), "tpt", 0, 26.67),
    ],
)
def test_the_same_method_backbone_protocol_set_and_shots(setting, method, shots, percent):
    assert setting.result(method, shots).accuracy == pytest.approx(percent / 100)


@pytest.mark.parametrize(
    ("setting", "method", "shots"),
    [
        (TIP, "tip-adapter", 3),
        (TIP, "tip-adapter", None),
        (TIP, "tip-x", 16),
        (replace(TIP, backbone="openai-rn101"), "tip-adapter", 16),
        (replace(TIP, backbone="embedded"), "tip-adapter", 16),
        (replace(TIP, protocol="coop"), "tip-adapter", 16),
        (replace(TIP, set="imagenet_v2"), "tip-adapter", 16),
        (replace(TIP, set="dtd"), "tip-adapter", 8),
        (Setting("openai-vit-b-16", "transductive", "eurosat", "low"), "transclip", 0),
    ],
)
def test_nothing_where_something_is_otherwise(setting, method, shots):
    assert setting.result(method, shots) is None


def test_means_over_other_sets_are_of_one_backbone():
    (row,) = rows_of_backbone("open_clip:ViT-L-14/openai", "means")[-1:]
    assert (row["method"], row["zero_shot"], row["accuracy"]) == ("reclip", 69.83, 74.94)
    assert {row["method"] for row in rows_of_backbone("openai-vit-b-32", "means")} == {"gta-clip", "transclip"}
    assert rows_of_backbone("openai-rn50", "means") == rows_of_backbone("embedded", "means") == []


def test_what_a_recipe_changes_makes_its_numbers_others():
    prepared = SimpleNamespace(backbone=object(), data=SimpleNamespace(published="imagenet"))
    given = {"protocol": "full-val", "backbone": "openai-rn50"}
    assert Classification().setting(resolve(flags=given), prepared) == TIP
    changes = {"classes": "base", "descriptions": "texts.json", "templates": "a {}.", "image_size": 64, "preset": "dtd"}
    for key, value in changes.items():
        assert Classification().setting(resolve(flags={**given, key: value}), prepared) is None
    assert Classification().setting(resolve(flags={"backbone": "openai-rn50"}), prepared) is None
    assert Classification().setting(resolve(flags=given), SimpleNamespace(backbone=None, data=prepared.data)) is None
    unknown = SimpleNamespace(backbone=object(), data=SimpleNamespace(published=None))
    assert Classification().setting(resolve(flags=given), unknown) is None


def test_the_mean_is_of_all_eleven_sets_only():
    eleven = json.loads(Path(PUBLISHED).read_text())["eleven"]
    assert are_eleven(reversed(eleven))
    assert not are_eleven(eleven[1:]) and not are_eleven([*eleven, "dtd"]) and not are_eleven([*eleven[1:], None])


def test_a_run_says_how_far_it_is_from_what_was_published():
    (note,) = note_on_published(TIP, "tip-adapter", 16, 0.6101)
    assert "published for tip-adapter under full-val on imagenet" in note and "differs by −1.0 points" in note
    assert note_on_published(TIP, "tip-adapter", 16, None) == note_on_published(None, "tip-adapter", 16, 0.5) == []


def test_an_alias_is_known_by_its_spec():
    assert alias_of("OpenAI-RN50") == alias_of("open_clip:RN50/openai") == "openai-rn50"
    assert alias_of("open_clip:RN50-quickgelu/openai") == "openai-rn50"
    assert alias_of("open_clip:RN50/cc12m") is None
    assert [alias_of(each.spec) for each in published()] == [each.alias for each in published()]
