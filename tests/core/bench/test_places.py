"""Which sets lie where, and what is published of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from vladapt.core.bench import places
from vladapt.core.bench.published import published_scores
from vladapt.core.contracts.bench import BenchSet
from vladapt.core.contracts.options import option
from vladapt.core.errors import ConfigError, DataError, UnknownNameError


@dataclass(eq=False, kw_only=True)
class Numbered(BenchSet):
    """Of no images; `*.numbers` tell it."""

    drawn = True
    size = 0
    first: int = option(1, "the first number")

    @classmethod
    def recognises(cls, place):
        return any(place.glob("*.numbers"))

    def check(self, towers): ...

    def score(self, towers):
        return []


@pytest.fixture(autouse=True)
def _kinds(monkeypatch):
    """Two kinds that tell sets by the same files; one of a package of somebody's."""
    others = {"numbered": Numbered, "also": type("Also", (Numbered,), {"drawn": False})}
    for kind, cls in others.items():
        cls.kind = kind
    others["also"].recognises = classmethod(lambda cls, place: any(place.glob("*.also")))
    plain = places.benchmark_class
    monkeypatch.setattr(places, "benchmarks", lambda: ["clip-benchmark", "captioned", "labelled", *others])
    monkeypatch.setattr(places, "benchmark_class", lambda kind: others.get(kind) or plain(kind))


def folder(place, *files):
    place.mkdir(parents=True)
    for name in files:
        (place / name).touch()
    return str(place)


def test_a_kind_is_told_by_files_and_takes_its_options(tmp_path):
    (found,) = places.sets_at([folder(tmp_path / "a", "x.numbers")], {"numbered": {"first": "3"}})
    assert (found.kind, found.first, found.title) == ("numbered", 3, "a")


def test_a_set_may_be_drawn():
    (found,) = places.sets_at(["sample:numbered"])
    assert (found.folder, found.title) == (None, "numbered")


def test_what_no_kind_recognises_is_read_as_images_with_labels(tmp_path):
    assert [each.kind for each in places.sets_at([folder(tmp_path / "a"), "sample"])] == ["labelled"] * 2


def test_sets_inside_a_folder_win_over_the_folder(tmp_path):
    for name in ("b", "a"):
        folder(tmp_path / "all" / name, "x.numbers")
    folder(tmp_path / "all" / "c")
    assert [each.title for each in places.sets_at([str(tmp_path / "all")])] == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "options", "error", "said"),
    [
        ([], {}, ConfigError, "--data: none given"),
        (["nowhere"], {}, DataError, "no such file or folder"),
        (["sample:number"], {}, UnknownNameError, "did you mean numbered"),
        (["sample:also"], {}, UnknownNameError, "no set of that name is drawn"),
        (["sample:numbered"], {"numberd": {"first": 1}}, UnknownNameError, "no such kind of set"),
        (["sample:numbered"], {"numbered": {"last": 1}}, UnknownNameError, "has no option 'last'"),
        (["sample:numbered"], {"numbered": {"first": "x"}}, ConfigError, "first"),
        (["sample:numbered"], {"clip-benchmark": {}}, ConfigError, "there is no set of that kind"),
        (["sample:numbered", "sample:numbered"], {}, ConfigError, "named twice"),
    ],
)
def test_what_is_wrong_is_told(asked, options, error, said):
    with pytest.raises(error, match=said):
        places.sets_at(asked, options)


def test_a_folder_of_two_kinds_is_refused(tmp_path):
    with pytest.raises(DataError, match="may be numbered or also"):
        places.sets_at([folder(tmp_path / "a", "x.numbers", "x.also")])


def test_published_rows_are_of_the_same_tower_and_the_same_set():
    source = "CLIP_benchmark, benchmark/benchmark.csv of github.com/LAION-AI/CLIP_benchmark at 48de38c"
    of = published_scores("openai-vit-b-32", "fgvc_aircraft", 3333)
    assert of == {("", "acc1"): {source: 0.197}, ("", "mean_per_class_recall"): {source: 0.197}}
    assert published_scores("open_clip:ViT-B-32/openai", "fgvc_aircraft", 3333) == of
    captions = published_scores("openai-vit-l-14", "mscoco_captions", 5000)
    assert captions["", "image_to_text/r5"] == {source: 0.792} and captions["", "text_to_image/r5"] == {source: 0.611}
    assert published_scores("open_clip:ViT-B-32/laion400m_e32", "cars", 8041) == {}  # with QuickGELU alone
    assert published_scores("openai-vit-b-32", "fgvc_aircraft", 3334) == {}
    assert published_scores("embedded", "fgvc_aircraft", 3333) == {}
    assert published_scores("openai-vit-b-32", "", 3333) == {}
