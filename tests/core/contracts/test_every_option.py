"""What holds for every option of a loss, of a reader and of a training: it says what it is, reads what it writes, and
answers what it cannot mean in one line."""

from __future__ import annotations

import math
from typing import get_args

import pytest

from vladapt import build_loss, load_domain
from vladapt.core.contracts.domain import Reading
from vladapt.core.contracts.options import ABSENT, as_text, chosen, options_from, options_of, typed
from vladapt.core.data.pairs import reading as pairs
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.registry import catalogue, loss_class
from vladapt.core.training.settings import TrainingSettings

LOSSES = sorted(name for name, entry in catalogue.losses().items() if entry.entry_point is None)
OWNERS = {
    **{f"loss {name}": loss_class(name) for name in LOSSES},
    "training": TrainingSettings,
    "labelled images": Reading,
    "pairs": pairs.Reading,
    "medical": load_domain("medical").reading,
    "open-vocab": load_domain("open-vocab").reading,
}
OPTIONS = [(owner, each) for owner, cls in OWNERS.items() for each in options_of(cls)]
IDS = [f"{owner}.{each.name}" for owner, each in OPTIONS]
TEXTS = (str, str | None, tuple[str, ...], tuple[str, ...] | None)
"""Any word is one of these, unless there are choices."""
WITHOUT_END = {("training", "lr")}
"""A rate is too high where a training diverges, which it says itself, with the step and what to try."""
YES, NO = ("yes", "true", "True", "1", "on", True), ("no", "false", "False", "0", "off", False)


def kinds_of(each) -> tuple:
    """The types of an option, of the elements where it is a sequence."""
    members = [kind for kind in (get_args(each.kind) or (each.kind,)) if kind not in (type(None), ...)]
    return tuple(inner for kind in members for inner in (get_args(kind) or (kind,)) if inner is not ...)


def refused(each, value) -> str:
    """The line that answers a value."""
    with pytest.raises(ConfigError) as error:
        typed(each, value, "it")
    message = str(error.value)
    assert message.startswith(f"option {each.name}={as_text(value)} of it is not usable; give ") and "\n" not in message
    return message.partition("; give ")[2]


def test_all_losses_and_readers_are_here():
    assert len(OPTIONS) > 150 and {"loss silc", "training", "pairs"} <= OWNERS.keys()


@pytest.mark.parametrize(("owner", "each"), OPTIONS, ids=IDS)
def test_it_has_a_line_of_help(owner, each):
    assert 0 < len(each.help) <= 100 and "\n" not in each.help
    assert not each.help.endswith(".") and each.help == each.help.strip()
    first = each.help.split()[0]
    assert first.islower() or sum(map(str.isupper, first)) > 1, "lower case, but for names like AdamW"
    assert each.accepts and each.default is not ABSENT


@pytest.mark.parametrize(("owner", "each"), OPTIONS, ids=IDS)
def test_its_default_is_read_back_as_it_is_written(owner, each):
    for value in (each.default, each.default_text):
        read = typed(each, value)
        assert read == each.default and type(read) is type(each.default)


@pytest.mark.parametrize(("owner", "each"), OPTIONS, ids=IDS)
def test_a_word_is_refused_where_it_is_no_text(owner, each):
    if str in kinds_of(each) and not each.bounds.choices:
        if each.kind in TEXTS:
            assert "abc" in (typed(each, "abc"), *(typed(each, "abc") or ()))
        return
    assert refused(each, "abc").startswith(each.accepts)


@pytest.mark.parametrize(("owner", "each"), OPTIONS, ids=IDS)
def test_no_number_is_nan_or_infinite_or_absurd(owner, each):
    if not {int, float} & set(kinds_of(each)) or str in kinds_of(each):
        return
    absurd = () if (owner, each.name) in WITHOUT_END else (10**12, "1e12")
    for value in (math.nan, math.inf, -math.inf, "nan", "inf", *absurd):
        refused(each, value)


@pytest.mark.parametrize(("owner", "each"), OPTIONS, ids=IDS)
def test_booleans_read_the_usual_words(owner, each):
    if each.kind is not bool:
        return
    assert [typed(each, value) for value in YES] == [True] * len(YES)
    assert [typed(each, value) for value in NO] == [False] * len(NO)
    for value in ("maybe", 2, None, ""):
        assert refused(each, value) == "yes or no"


@pytest.mark.parametrize("owner", OWNERS)
def test_the_nearest_option_is_named(owner):
    options = options_of(OWNERS[owner])
    for each in options:
        with pytest.raises(UnknownNameError, match=f"has no option '{each.name}x'; did you mean .*{each.name}"):
            chosen(OWNERS[owner], {f"{each.name}x": 1}, owner)


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
        ({"val": 0.5, "test": 0.5}, "option test=0.5 is not usable; with val give less than all"),
        ({"split": "dev"}, "option split=dev of the reader of pairs .*give one of train, val, test, or none"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_pairs(none, **options)
    with pytest.raises(ConfigError, match="option min_side=small of the reader of labelled images"):
        read_any(none, min_side="small")
