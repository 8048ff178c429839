"""What every curator promises, found by the registry: nothing depends on the order of the inputs, or on the blocks."""

import numpy as np
import pytest

from vladapt.core.contracts.curator import STAGES, Decision, PairTable, Survey
from vladapt.core.contracts.options import options_of
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import build_curator, curator_class
from vladapt.core.registry.catalogue import curators
from vladapt.core.testing.curation import drawn_pairs, options_of_curator

NAMES = sorted(curators())


def decided(name: str, pairs: PairTable) -> Decision:
    return build_curator(name, **options_of_curator(name, pairs)).decide_all(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_a_decision_is_of_every_pair_and_none_twice_the_same_way(name):
    pairs = drawn_pairs()
    first, again = decided(name, pairs), decided(name, pairs)
    assert len(first.reason) == len(pairs)
    assert first.keep.sum() > 0
    assert first.reason.max() <= len(first.rules)
    assert np.array_equal(first.reason, again.reason)
    assert all(values.shape == (len(pairs),) for values in first.scores.values())
    assert first.captions is None or len(first.captions) == len(pairs)
    if first.weight is not None:
        assert first.weight.shape == (len(pairs),)
        assert (first.weight[first.keep] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_inputs_changes_nothing(name):
    first, other = decided(name, drawn_pairs()), decided(name, drawn_pairs(shuffled=True))
    assert np.array_equal(first.reason, other.reason)
    for score, values in first.scores.items():
        np.testing.assert_allclose(values, other.scores[score], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_change_nothing(name):
    pairs = drawn_pairs()
    curator = build_curator(name, **options_of_curator(name, pairs))
    survey = curator.survey(pairs)
    whole, reasons = curator.decide(pairs, survey), []
    for rows in pairs.blocks(7):
        part = Survey(survey.whole, {key: values[rows] for key, values in survey.rows.items()})
        made = curator.decide(pairs.among(rows), part)
        assert made.rules == whole.rules
        reasons.append(made.reason)
    assert np.array_equal(np.concatenate(reasons), whole.reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_subset_is_judged_as_if_the_others_were_not_there(name):
    pairs = drawn_pairs()
    rows = np.flatnonzero(pairs.uniform(3, purpose="subset of a test") < 0.7)
    alone = drawn_pairs(rows=rows)
    assert np.array_equal(decided(name, pairs.among(rows)).reason, decided(name, alone).reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_pairs_are_decided_too(name):
    pairs = drawn_pairs(rows=np.arange(2))
    assert len(decided(name, pairs).reason) == 2


@pytest.mark.parametrize("name", NAMES)
def test_it_belongs_to_a_stage_and_cites_what_it_is(name):
    cls = curator_class(name)
    assert cls.stage in STAGES
    assert len(cls.__doc__ or "") > 80


def test_draws_of_two_curators_are_independent_at_the_same_seed(monkeypatch):
    """The sample for k-means, which `d4` and others share, chooses no pair."""
    purposes, uniform = {}, PairTable.uniform

    def drawn(self, seed, rows=slice(None), *, purpose):
        purposes.setdefault(purpose, set()).add(name)
        return uniform(self, seed, rows, purpose=purpose)

    monkeypatch.setattr(PairTable, "uniform", drawn)
    pairs = drawn_pairs(40)
    for name in NAMES:
        options = options_of_curator(name, pairs) | ({"which": "random"} if name == "sem-dedup" else {})
        build_curator(name, **options).decide_all(pairs)
    shared = {purpose: users - {"d4"} for purpose, users in purposes.items() if purpose != "k-means: sample"}
    assert len(shared) > 7 and all(len(users) == 1 for users in shared.values()), shared
    monkeypatch.undo()
    between = np.corrcoef([drawn_pairs(600).uniform(0, purpose=purpose) for purpose in purposes])
    assert np.abs(between - np.eye(len(between))).max() < 0.2


FILE_OPTIONS = [
    (name, each.name)
    for name in NAMES
    for each in options_of(curator_class(name))
    if each.help.startswith("file ") or each.name in ("classes", "metadata", "language_model", "tests", "words")
    if each.kind is not int
]


@pytest.mark.parametrize(("name", "option"), FILE_OPTIONS)
def test_a_file_that_is_not_there_is_refused_by_check(name, option, tmp_path):
    options = options_of_curator(name, drawn_pairs(10)) | {option: str(tmp_path / "absent.npy")}
    with pytest.raises((DataError, CapabilityError)):
        build_curator(name, **options).check(("text", "language"))


@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_finite_are_never_kept(name):
    pairs = drawn_pairs(40)
    options = options_of_curator(name, pairs)
    for column in {"image_features", "caption_features"} & set(build_curator(name, **options).reads):
        broken = pairs.numbers(column).copy()
        broken[3, 2] = np.nan
        table = PairTable.of(pairs.names(), pairs.encoder, **_columns(pairs) | {column: broken})
        try:
            assert not build_curator(name, **options).decide_all(table).keep[3]
        except DataError as error:
            assert "not finite" in str(error)


def _columns(pairs: PairTable) -> dict:
    return {
        key: pairs.numbers(key) if isinstance(values, np.ndarray) else pairs.strings(key)
        for key, values in pairs.columns.items()
    }


UNUSED = [
    ("s-cliploss", {"norm": "2"}, {}),
    ("s-cliploss", {"keep": 0.1}, {}),
    ("s-cliploss", {"steps": 3}, {}),
    ("s-cliploss", {"steps": 3}, {"target": "file.npy"}),
    ("norm-sim", {"steps": 3}, {"target": "file.npy"}),
    ("sem-dedup", {"eps": 0.1}, {"fraction": 0.5}),
    ("square-root", {"fraction": 0.1}, {"weights": True}),
    ("metaclip", {"limit": 9}, {"tail_share": 0.1, "metadata": "entries.txt"}),
]


@pytest.mark.parametrize(("name", "unused", "beside"), UNUSED)
def test_an_option_without_effect_is_refused(name, unused, beside):
    build_curator(name, **beside)
    with pytest.raises(ConfigError, match=f"{next(iter(unused))} has no effect"):
        build_curator(name, **beside, **unused)


EQUAL = {"norm-sim": {"keep": 0.5}, "s-cliploss": {"keep_first": 0.5}, "clipcov": {"fraction": 0.5, "refresh": 10**6}}


@pytest.mark.parametrize("name", EQUAL)
def test_of_equal_rows_over_blocks_the_smallest_ids_are_kept(name, monkeypatch):
    for module, size in (("norm_sim", 7), ("s_cliploss", 7)):
        monkeypatch.setattr(f"vladapt.core.curators.{module}.PAIRS_AT_ONCE", size)
    monkeypatch.setattr("vladapt.core.curators.clipcov.MEMBERS_AT_ONCE", 7)
    rows = np.repeat(drawn_pairs(1).numbers("image_features"), 61, axis=0)
    captions = np.repeat(drawn_pairs(1).numbers("caption_features"), 61, axis=0)
    pairs = PairTable.of([f"{n:02d}" for n in range(61)], "drawn", image_features=rows, caption_features=captions)
    keep = build_curator(name, **options_of_curator(name, pairs) | EQUAL[name]).decide_all(pairs).keep
    assert keep[:30].all() and not keep[30:].any()
