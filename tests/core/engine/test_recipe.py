"""A recipe is defaults, a file, --set and flags, in that order."""

import pytest

from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import build_adapter
from vladapt.core.registry.catalogue import recipes


def test_later_sources_win(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"shots": 2, "seed": 5, "adapter": {"name": "ape", "gamma": 0.2}}')
    found = resolve(recipe="medical/default", config=file, sets=["seed=6", "adapter.gamma=0.3"], flags={"seed": 7})
    assert (found.shots, found.seed, found.adapter_name, found.adapter["gamma"]) == (2, 7, "ape", 0.3)
    assert {"shots", "seed", "adapter.name", "adapter.gamma"} <= found.given


def test_an_adapters_name_never_takes_away_options_given_beside_it():
    found = resolve(sets=["adapter.epochs=5"], flags={"adapter.name": "coop"})
    assert found.adapter_name == "coop" and found.adapter_options == {"epochs": 5}


def test_another_adapter_drops_the_options_of_the_recipes_own():
    assert resolve(recipe="blood-cells", flags={"adapter.name": "coop"}).adapter_options == {}


def test_no_switches_an_option_off():
    for said, meant in {"no": False, "0": False, "False": False, "yes": True, "1": True}.items():
        options = resolve(sets=[f"adapter.csc={said}"], flags={"adapter.name": "coop"}).adapter_options
        assert build_adapter("coop", **options).csc is meant


def test_short_forms():
    found = resolve(flags={"adapter": "ape", "data": "./here"})
    assert found.adapter_name == "ape" and found.data_path == "./here" and found.reading == {}
    assert resolve(flags={"adapter": {"name": "ape", "alpha": 2.0}}).adapter["alpha"] == 2.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("1e-3", 1e-3), ("(7, 3)", (7, 3)), ("none", None), ("true", True), ("words", "words")],
)
def test_values_of_set(text, value):
    found = resolve(sets=[f"adapter.x={text}"]).adapter["x"]
    assert (tuple(found) if isinstance(value, tuple) else found) == value


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"sets": ["shotz=3"]}, UnknownNameError, "did you mean shots"),
        ({"sets": ["shots"]}, ConfigError, "write key=value"),
        ({"sets": ["seed.x=1"]}, ConfigError, "holds one value"),
        ({"recipe": "chest-xra"}, UnknownNameError, "medical/chest-xray"),
        ({"config": "none.py"}, ConfigError, "no such file"),
        ({"flags": {"shots": -1}}, ConfigError, "--shots -1: give a whole number, 0 or more"),
        ({"flags": {"amp": "fp8"}}, ConfigError, "--amp fp8"),
        ({"flags": {"adapter.name": "apee"}}, UnknownNameError, "did you mean ape"),
    ],
)
def test_mistakes_are_named(kwargs, error, says):
    with pytest.raises(error, match=says):
        resolve(**kwargs)


def test_every_packaged_recipe_resolves():
    assert "medical/default" in recipes()
    for name in recipes():
        made, owner = resolve(recipe=name), name.split("/")[0]
        assert made.domain == owner or (made.domain is None and made.task == owner == "pretraining")


def test_what_was_given_is_known_whatever_its_value():
    assert resolve().given == frozenset()
    assert resolve(flags={"backbone": "embedded", "shots": None}).given == {"backbone"}
    assert resolve(sets=["adapter.alpha=1"], flags={"adapter.name": "ape"}).gave("adapter")
    again = type(resolve()).of(resolve(flags={"shots": 16}).to_dict())
    assert again.given == {"shots"} and again == resolve(flags={"shots": 16})


def test_values_are_typed_once():
    assert resolve(sets=["seed=3.0"]).seed == 3
    assert resolve(sets=["novel=yes"]).novel is True
    for text, says in [("shots=abc", "--shots abc: give a whole number"), ("amp=fp8", "--amp fp8: give one of bf16")]:
        with pytest.raises(ConfigError, match=says):
            resolve(sets=[text])


def test_an_option_of_the_reader_is_a_key_of_its_own_where_the_task_has_none():
    made = resolve(flags={"domain": "medical", "modality": "histology"})
    assert made.data == {"path": "sample", "modality": "histology"} and "data.modality" in made.given
    assert not made.task_options
    with pytest.raises(UnknownNameError, match="a recipe has no key 'modalty'"):
        resolve(flags={"domain": "medical", "modalty": "histology"})


def test_an_option_of_another_task_of_the_domain_is_named_as_such():
    """And one of another domain's as that domain's."""
    asked = {"domain": "open-vocab", "task": "segmentation"}
    for more in ({"flags": {**asked, "remember": ["cat"]}}, {"flags": asked, "sets": ["lora_rank=4"]}):
        with pytest.raises(UnknownNameError, match=r"'\w+' is an option of detection, not of segmentation; omit it$"):
            resolve(**more)
    of_others = "a recipe has no key 'remember'; it is an option of --domain open-vocab or remote-sensing"
    with pytest.raises(UnknownNameError, match=of_others):
        resolve(flags={"domain": "medical", "remember": ["cat"]})
