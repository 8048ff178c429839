"""What a run says of the images it trained on: the method's crop or the domain's, stored views or new ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run as run_process
from safetensors.torch import load_file

QUICK = ("--set", "adapter.epochs=2", "--set", "adapter.n_ctx=2")
STORED, NEW = "Trained on 10 augmented views per image.", "Trained on a new augmented view of each image in every epoch"
AS_IS = "Trained on features of the images as they are, without augmented views."


@pytest.fixture
def run_of(fit, colours):
    """run.json of a fit on the colours as photos, or as another domain."""

    def call(*arguments, domain="natural"):
        outcome = fit("--data", colours, "--domain", domain, "--json", *arguments)
        assert outcome.code == 0, outcome.err
        return json.loads((Path(outcome.json["run"]) / "run.json").read_text())

    return call


def says(run, words) -> bool:
    return any(note.startswith(words) for note in run["notes"])


def test_prompts_train_on_stored_views_which_a_second_fit_finds(run_of):
    first = run_of("--adapter", "coop", *QUICK)
    assert says(first, STORED) and says(first, "Random crops keep 8 to 100 % of an image, as published.")
    support = len(first["splits"]["support"])
    again = run_of("--adapter", "kgcoop", *QUICK)
    assert says(again, STORED) and again["encoded_images"] == 0
    assert again["stored_images"] == first["encoded_images"] + first["stored_images"] > 11 * support


def test_each_crop_has_views_of_its_own_in_the_store(run_of):
    run_of("--adapter", "coop", *QUICK)
    other = run_of("--adapter", "tip-adapter")
    support = len(other["splits"]["support"])
    assert other["encoded_images"] == 10 * support
    assert says(other, "Random crops keep 50 to 100 % of an image, as published.")
    asked = run_of("--adapter", "tip-adapter", "--set", "adapter.crop_scale=0.08,1")
    assert asked["encoded_images"] == 0  # those of coop
    assert not says(asked, "Random crops")


def test_new_views_are_not_stored_and_follow_the_seed_in_any_process(run_of, colours, small_clip_spec, tmp_path):
    new = run_of("--adapter", "coop", *QUICK, "--set", "adapter.fresh_views=true", "--out", "here")
    assert says(new, NEW) and new["adapter_options"]["fresh_views"] is True
    assert new["encoded_images"] + new["stored_images"] < 11 * len(new["splits"]["support"])
    told = ["--domain", "natural", "--backbone", small_clip_spec, "--shots", 2, "--adapter", "coop", *QUICK]
    told += ["--set", "adapter.fresh_views=true", "--out", tmp_path / "there"]
    empty = {"VLADAPT_CACHE": str(tmp_path / "empty")}
    run_process(["-m", "vladapt", "fit", "--data", colours, *told], check=True, cwd=tmp_path, env=empty)
    here, there = (next((tmp_path / place).glob("*/adapter.safetensors")) for place in ("here", "there"))
    one, other = load_file(here), load_file(there)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_medical_images_have_no_views_unless_asked_for_and_then_mild_ones(run_of):
    usual = run_of("--adapter", "coop", *QUICK, domain="medical")
    assert says(usual, AS_IS) and not says(usual, "Random crops")
    asked = run_of("--adapter", "coop", *QUICK, "--set", "adapter.views=3", domain="medical")
    assert says(asked, "Trained on 3 augmented views per image.")
    assert says(
        asked, "Random crops keep 80 to 100 % of an image, the safe share for domain medical (published: 8 to 100 %)"
    )


@pytest.mark.parametrize("protocol", ["coop", "fixed"])
def test_a_protocol_takes_the_method_s_whatever_the_domain(run_of, protocol):
    run = run_of("--adapter", "coop", *QUICK, "--protocol", protocol, domain="medical")
    assert says(run, NEW) and says(run, "Random crops keep 8 to 100 % of an image, as published.")
    stored = ("--set", "adapter.fresh_views=no")
    run = run_of("--adapter", "coop", *QUICK, "--protocol", protocol, *stored, domain="medical")
    assert says(run, STORED) and says(run, "Random crops keep 8 to 100 % of an image, as published.")


def test_a_preset_that_is_named_takes_new_views_where_the_method_has_it(run_of):
    assert says(run_of("--adapter", "coop", *QUICK, "--preset", "dtd"), NEW)
    assert says(run_of("--adapter", "coop", *QUICK, "--set", "adapter.preset=dtd"), NEW)
    assert says(run_of("--adapter", "kgcoop", *QUICK, "--preset", "dtd"), STORED)  # it publishes nothing for a set


def test_methods_that_train_towers_crop_as_they_publish_or_as_is_safe(run_of):
    trained = ("--adapter", "full", "--set", "adapter.epochs=1", "--set", "adapter.batch_size=4")
    assert not says(run_of(*trained), "Random crops")  # it publishes none
    trained = ("--adapter", "clipfit", "--set", "adapter.epochs=1", "--set", "adapter.batch_size=4")
    assert says(run_of(*trained), "Random crops keep 8 to 100 % of an image, as published.")
    assert says(run_of(*trained, domain="medical"), "Random crops keep 80 to 100 % of an image, the safe share")


def test_a_features_file_has_no_views(fit, refused, tmp_path):
    drawn = np.random.default_rng(0)
    labels = np.arange(60) % 3
    texts = drawn.normal(size=(3, 8)).astype(np.float32)
    images = (texts[labels] + drawn.normal(size=(60, 8))).astype(np.float32)
    names = np.array(["a", "b", "c"])
    np.savez(tmp_path / "rows.npz", image_features=images, labels=labels, text_features=texts, class_names=names)
    rows = ("--features", tmp_path / "rows.npz")
    outcome = fit(*rows, "--adapter", "clip-adapter", "--set", "adapter.epochs=2", "--set", "adapter.fresh_views=true")
    refused(outcome, outcome.code, "option fresh_views: new views need the images themselves, which a features file")
    assert outcome.code != 0
    done = fit(*rows, "--adapter", "clip-adapter", "--set", "adapter.epochs=2", "--protocol", "coop", "--json").json
    assert says(json.loads((Path(done["run"]) / "run.json").read_text()), AS_IS)


def test_a_crop_that_a_domain_cannot_change_is_one_line(fit, refused, colours, monkeypatch):
    from vladapt.domains.natural.domain import Natural

    class Fixed:
        spec = "fixed"

        def __call__(self, image, seed=None):
            raise AssertionError("nothing is encoded before it is refused")

    monkeypatch.setattr(Natural, "transforms", lambda self, backbone, train, task: Fixed())
    asked = ("--domain", "natural", "--adapter", "tip-adapter", "--set", "adapter.crop_scale=0.2,0.5")
    outcome = fit("--data", colours, *asked)
    refused(outcome, outcome.code, "option crop_scale: this domain's augmentation has no crop that it could change")
    assert outcome.code != 0
