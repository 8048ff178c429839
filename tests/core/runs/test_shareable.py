"""What of a run is told to others."""

from __future__ import annotations

import pytest

from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.errors import CapabilityError
from vladapt.core.runs.redaction import Privacy, leaks, shareable, shared_spec
from vladapt.core.sharing.card import base_model


@pytest.mark.parametrize(
    "spec, told",
    [
        ("embedded", "embedded"),
        ("biomedclip", "biomedclip"),
        ("hf:openai/clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32"),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", "open_clip:ViT-B-16/laion2b_s34b_b88k"),
        ("open_clip:ViT-B-32@hf-hub:owner/name/w.pt", "open_clip:ViT-B-32@hf-hub:owner/name/w.pt"),
        ("hf:/home/anna/models/mine", "unpublished:mine"),
        ("hf:models/anna/mine", "unpublished:mine"),
        ("runs/20260101-120000-anna-full-1a2b", "unpublished:20260101-120000-anna-full-1a2b"),
        ("open_clip:ViT-B-32@../anna/w.safetensors", "unpublished:ViT-B-32@w.safetensors"),
        ("open_clip:ViT-B-32@w.pt#merge=20/10/5", "unpublished:ViT-B-32@w.pt#merge=20/10/5"),
        ("hf:openai/clip-vit-base-patch32#merge=20/10/5", "hf:openai/clip-vit-base-patch32#merge=20/10/5"),
        ("open_clip:C:\\anna\\c.json@C:\\anna\\w.pt", "unpublished:c.json@w.pt"),
    ],
)
def test_a_backbone_is_told_by_its_public_name_or_by_the_last_one_of_its_path(spec, told):
    assert shared_spec(spec) == told and shared_spec(told) == told


def test_names_of_the_hub():
    assert base_model("hf:openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"
    assert base_model("open_clip:hf-hub:owner/name") == "owner/name" and base_model("embedded") is None
    assert base_model("biomedclip") == "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"


@pytest.mark.parametrize("text", ["accuracy 3/4 and/or 1/2", "https://huggingface.co/me/x", "hf:me/x", "a photo / {}"])
def test_words_that_are_no_paths_stay(text):
    assert Privacy(RunInfo()).text(text) == text


@pytest.mark.parametrize("path", ["/srv/x/y", "~/scans", "C:\\scans\\b", "('/data/a')", "at=/mnt/b,", "//x /opt/z"])
def test_paths_go(path):
    told = Privacy(RunInfo()).text(path)
    assert not [word for word in ("srv", "scans", "data", "mnt", "opt") if word in told]


def test_ids_are_found_and_numbers_are_not():
    info = RunInfo(splits={"test": ["p-Anna/01", "1234", "cat"]}, class_names=["cat"])
    assert leaks([("README.md", "of p-Anna/01")], info) == "README.md holds 'p-Anna/01'"
    assert leaks([("README.md", "0.1234 of every cat")], info) is None


def test_what_is_told_once_is_told_again_alike():
    info = {
        "splits": {"test": ["Anna.png"], "support": []},
        "digests": {"support": ["ab"]},
        "data": {"path": "/x", "name": "Anna", "licence": "MIT"},
        "recipe": {"data": {"path": "/x"}, "resources": {"keys": "rad-dino", "boxes": "/x/c"}, "classes": "c.txt"},
        "backbone": {"spec": "embedded"},
        "origin": "../..",
        "class_names": ["Anna.png"],
    }
    once = shareable(RunInfo.from_json(info))
    assert once["published"]["counts"] == {"test": 1, "support": 0} and once["class_names"] == ["Anna.png"]
    assert once["recipe"]["resources"] == {"keys": "rad-dino"} and once["recipe"]["classes"] is None
    assert not once.keys() & {"splits", "digests", "origin"} and "/x" not in str(once)
    assert dict(shareable(once)) == dict(once)


def test_a_backbone_that_a_models_plan_names_is_found_again_where_the_user_says(tmp_path):
    import json

    from vladapt.core.runs.folder import open_run

    spec = f"hf:{tmp_path}/mine"
    info = {"format": 1, "vladapt": "0.1.0", "domain": None, "task": "detection", "adapter": "own", "class_names": []}
    info |= {"recipe": {"backbone": spec}, "backbone": {"spec": spec}, "plan": {"model": {"texts": {"spec": spec}}}}
    told = dict(shareable(RunInfo.from_json(info)))
    assert str(tmp_path) not in json.dumps(told)
    (tmp_path / "run.json").write_text(json.dumps(told))
    (tmp_path / "adapter.safetensors").touch()
    opened = open_run(tmp_path, "hf:here/mine")
    assert opened.info["plan"]["model"]["texts"]["spec"] == opened.info["backbone"]["spec"] == "hf:here/mine"
    with pytest.raises(CapabilityError, match="--backbone"):
        open_run(tmp_path)
