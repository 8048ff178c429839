"""What holds for the options of trainings and of readers that no domain owns, by the checks of `vladapt.testing`; and
how losses, readers and trainings answer a wrong value.

Options of adapters, losses and domains are held to the same in `test_every_option.py`, `test_every_loss.py` and
`test_every_domain.py` of their rooms.
"""

from __future__ import annotations

import pytest

from vladapt import build_loss, load_domain
from vladapt.core.contracts.domain import Reading
from vladapt.core.contracts.options import options_from
from vladapt.core.contracts.sources import SourceOptions
from vladapt.core.data.pairs import reading as pairs
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.registry import loss_class
from vladapt.core.testing.contract import checks_of
from vladapt.core.testing.options import OPTION_RULES, Options
from vladapt.core.training.settings import TrainingSettings

OWNERS = {
    "training": TrainingSettings,
    "labelled images": Reading,
    "pairs": pairs.PairReading,
    "sources": SourceOptions,
}


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=f"{owner}-{rule}")
        for owner, cls in OWNERS.items()
        for rule, check in checks_of(Options(cls, owner), OPTION_RULES)
    ],
)
def test_the_contract(check):
    check()


def test_no_option_counts_as_given_where_it_is_none():
    reading = options_from(load_domain("medical").reading, {"every": None, "label_tag": None, "axis": "coronal"}, "it")
    assert (reading.every, reading.label_tag, reading.axis) == (1, None, "coronal")
    with pytest.raises(UnknownNameError, match="no option 'evry'"):
        options_from(load_domain("medical").reading, {"evry": None}, "it")


def test_a_loss_takes_texts_and_names_itself():
    loss = build_loss("silc", {"image_width": 8}, momentum="0.99", out_dim="16", hidden_dim="8", bottleneck_dim="4.0")
    assert (loss.momentum, loss.out_dim, loss.bottleneck_dim) == (0.99, 16, 4)
    with pytest.raises(ConfigError, match=r"option momentum=abc of loss 'silc' is not usable; give a number, 0 to 1"):
        build_loss("silc", {"image_width": 8}, momentum="abc")
    with pytest.raises(ConfigError, match="option momentum=2 of loss 'silc' is not usable"):
        loss_class("silc")({"image_width": 8}, momentum=2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": "fast"}, "option lr=fast of the training is not usable; give a number above 0"),
        ({"amp": "int8"}, "give one of bf16, fp16, or none"),
        ({"lock": "image,audio"}, "option lock=image,audio .*give values, each one of image, text"),
        ({"betas": "0.9"}, "option betas=0.9 .*give 2 numbers"),
    ],
)
def test_settings_name_option_value_and_cure(given, words):
    with pytest.raises(ConfigError, match=words):
        TrainingSettings(**given)


def test_settings_read_what_set_says():
    said = TrainingSettings(lr="1e-3", lock="image", betas="0.9,0.999", amp="none", checkpointing="yes", epochs="3")
    assert said == TrainingSettings(lr=1e-3, lock=("image",), betas=(0.9, 0.999), checkpointing=True, epochs=3)
    assert said.to_dict()["betas"] == [0.9, 0.999] and said.to_dict()["lock"] == ["image"]


@pytest.mark.parametrize("reader", ["medical", "open-vocab"])
def test_readers_answer_before_they_look(reader, tmp_path):
    domain = load_domain(reader)
    with pytest.raises(UnknownNameError, match=f"'{reader}' has no option 'class_nams'; did you mean class_names"):
        domain.read(tmp_path / "none", domain.tasks[0], class_nams="a")


def test_pairs_answer_before_they_look(tmp_path):
    from vladapt import read_pairs
    from vladapt.core.data.detect import read_any

    none = tmp_path / "none"
    for options, words in (
        ({"vall": 0.1}, "the reader of pairs has no option 'vall'; did you mean val"),
        ({"val": "much"}, "option val=much of the reader of pairs is not usable; give a number, 0 or more, below 1"),
        ({"val": 0.5, "test": 0.5}, "option test=0.5 is not usable; val and test together must be below 1"),
        ({"split": "dev"}, "option split=dev of the reader of pairs .*give one of train, val, test, or none"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_pairs(none, **options)
    with pytest.raises(ConfigError, match="option min_side=small of the reader of labelled images"):
        read_any(none, min_side="small")
