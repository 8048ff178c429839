"""Composed queries of published sets, scored against an index, are what a count over all scores gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt.core.contracts.composition import ImagesAndWords
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.metrics import composed as metrics
from vladapt.core.registry.build import build_composition

pytest.importorskip("faiss", reason="extra retrieval is not installed")

DOMAINS, CLASSES = ("photo", "line_art", "clay"), ("cup", "jug")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory, small_clip_spec, small_clip):
    """An index of 36 drawn images in folders domain/class, named by numbers; its folder, their names and features."""
    from vladapt.core.engine.index import index
    from vladapt.core.recipes.resolve import resolve
    from vladapt.core.retrieval import RetrievalIndex

    place, numbers = tmp_path_factory.mktemp("composed"), np.random.default_rng(0)
    for number in range(36):
        folder = place / "set" / DOMAINS[number % 3] / CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = numbers.integers(0, 255, (3, 3, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((24, 24)).save(folder / f"{number + 1:012d}.png")
    recipe = resolve(flags={"backbone": small_clip_spec, "device": "cpu"})
    index(recipe, place / "an.index", images=[str(place / "set")])
    opened = RetrievalIndex.open(place / "an.index")
    names = [entry.source.rpartition("/")[2].removesuffix(".png") for entry in opened.entries]
    return place, names, torch.from_numpy(opened.rows(np.arange(36)))


@pytest.fixture(params=["whole", "in blocks"])
def evaluate(gallery, request, monkeypatch):
    from vladapt.core.engine import composed_gallery, search_evaluation, search_submission

    if request.param == "in blocks":
        monkeypatch.setattr(search_evaluation, "QUERIES_AT_ONCE", 4)
        monkeypatch.setattr(search_submission, "QUERIES_AT_ONCE", 3)
        monkeypatch.setattr(composed_gallery, "SCORES_AT_ONCE", 20)
        monkeypatch.setattr(composed_gallery, "FEWEST_ROWS", 5)

    def call(file, **how):
        return search_evaluation.evaluate_queries(gallery[0] / "an.index", file, device="cpu", **how)

    return call


def scores_of(gallery, tower, references, texts, name):
    """(Q, G) by the composition, the image alone and the words alone."""
    _, names, rows = gallery
    image = rows[[names.index(reference) for reference in references]]
    unit = [torch.nn.functional.normalize(tower.encode_text(list(each)).detach(), dim=-1).mean(0) for each in texts]
    both = ImagesAndWords(image, torch.stack(unit), list(texts))
    factors = build_composition(name).compose(both, None).factors
    composed = torch.einsum("qfd,gd->qfg", factors, rows).prod(dim=1)
    return composed, both.unit_image @ rows.T, both.unit_text @ rows.T


def by_name(done, part=""):
    return {score.metric: score for score in done.scores if score.part == part}


@pytest.mark.parametrize("name", ["slerp", "product"])
def test_cirr_leaves_the_reference_out_and_ranks_in_the_set(gallery, evaluate, small_clip, name):
    place, names, _ = gallery
    rows = [
        {
            "pairid": i,
            "reference": names[i],
            "target_hard": names[i + 3],
            "caption": f"with {word}",
            "img_set": {"members": [names[i + j] for j in (0, 1, 2, 3, 4, 5)]},
        }
        for i, word in enumerate(("red", "a hat", "less sea", "two of them", "night", "snow", "red"))
    ]
    (place / "cap.rc2.val.json").write_text(json.dumps(rows))
    done = evaluate(place / "cap.rc2.val.json", compose=name)
    targets, references = torch.arange(3, 10)[:, None], torch.arange(7)
    for way, scores in zip(
        ("value", "image", "text"),
        scores_of(gallery, small_clip, [row["reference"] for row in rows], [(row["caption"],) for row in rows], name),
    ):
        ranks = metrics.target_ranks(scores, targets, references)
        members = torch.stack([scores[i, i + 1 : i + 6] for i in range(7)])
        in_set = metrics.target_ranks(members, torch.full((7, 1), 2))
        own = by_name(done)
        for k in (1, 5, 10, 50):
            assert getattr(own[f"R@{k}"], way) == pytest.approx(float(metrics.is_found(ranks, k).double().mean()))
        for k in (1, 2, 3):
            assert getattr(own[f"Rs@{k}"], way) == pytest.approx(float(metrics.is_found(in_set, k).double().mean()))
    assert (done.set, done.queries, done.gallery, done.compose) == ("CIRR", 7, 36, name)
    assert own["R@1"].chance == pytest.approx(1 / 35) and own["Rs@1"].chance == pytest.approx(1 / 5)
    assert own["mean of R@5 and Rs@1"].value == pytest.approx((own["R@5"].value + own["Rs@1"].value) / 2)
    assert own["R@10"].interval[0] <= own["R@10"].value <= own["R@10"].interval[1]


def test_circo_counts_all_that_is_right_and_fashion_iq_asks_in_both_orders(gallery, evaluate, small_clip):
    place, names, _ = gallery
    rows = [
        {
            "reference_img_id": int(names[i]),
            "relative_caption": word,
            "target_img_id": int(names[i + 1]),
            "gt_img_ids": [int(names[i + j]) for j in range(1, 2 + i)],
            "id": i,
        }
        for i, word in enumerate(("red", "a hat", "less sea", "two", "night"))
    ]
    (place / "val.json").write_text(json.dumps(rows))
    own = by_name(evaluate(place / "val.json"))
    texts = [(row["relative_caption"],) for row in rows]
    scores, *_ = scores_of(gallery, small_clip, [names[i] for i in range(5)], texts, "sum")
    targets = torch.tensor([[i + j if j < 2 + i else -1 for j in range(1, 6)] for i in range(5)])
    every, first = metrics.target_ranks(scores, targets), metrics.target_ranks(scores, targets[:, :1])
    for k in (5, 10, 25, 50):
        assert own[f"mAP@{k}"].value == pytest.approx(float(metrics.average_precision_at(every, k).mean()))
        assert own[f"R@{k}"].value == pytest.approx(float(metrics.is_found(first, k).double().mean()))

    captions = [["is red.", "has a hat? "], ["has dots", "is longer"]]
    rows = [{"candidate": names[i], "target": names[9 - i], "captions": each} for i, each in enumerate(captions)]
    for folder, name, value in (
        ("captions", "cap.dress.val.json", rows),
        ("image_splits", "split.dress.val.json", names[:10]),
    ):
        (place / folder).mkdir(exist_ok=True)
        (place / folder / name).write_text(json.dumps(value))
    done = evaluate(place / "captions" / "cap.dress.val.json", at="1,3")
    texts = [("is red and has a hat", "has a hat and is red"), ("has dots and is longer", "is longer and has dots")]
    scores, *_ = scores_of(gallery, small_clip, names[:2], texts, "sum")
    ranks = metrics.target_ranks(scores[:, :10], torch.tensor([[9], [8]]))  # of the split alone, with the reference
    wanted = {f"R@{k}": float(metrics.is_found(ranks, k).double().mean()) for k in (1, 3)}
    assert {metric: score.value for metric, score in by_name(done).items()} == wanted and done.gallery == 10


def test_the_kinds_of_clothes_are_searched_each_in_its_own_images_and_their_mean_is_shown(gallery, evaluate):
    place, names, _ = gallery
    for kind, first in (("dress", 0), ("shirt", 12), ("toptee", 24)):
        rows = [
            {"candidate": names[first + i], "target": names[first + 11 - i], "captions": ["is red", "is long"]}
            for i in range(4)
        ]
        for folder, name, value in (
            ("kinds/captions", f"cap.{kind}.val.json", rows),
            ("kinds/image_splits", f"split.{kind}.val.json", names[first : first + 12]),
        ):
            (place / folder).mkdir(exist_ok=True, parents=True)
            (place / folder / name).write_text(json.dumps(value))
    done = evaluate(place / "kinds" / "captions", at="3,6")
    alone = {
        kind: by_name(evaluate(place / "kinds" / "captions" / f"cap.{kind}.val.json", at="3,6"))
        for kind in ("dress", "shirt", "toptee")
    }
    for metric in ("R@3", "R@6"):
        assert [by_name(done, kind)[metric].value for kind in alone] == [own[metric].value for own in alone.values()]
        mean = by_name(done, "mean")[metric]
        assert mean.value == pytest.approx(np.mean([own[metric].value for own in alone.values()]))
        assert mean.chance == pytest.approx(int(metric[-1]) / 12) and mean.interval[0] <= mean.value
    assert (done.set, done.queries, done.gallery) == ("FashionIQ", 12, 36)
    with pytest.raises(DataError, match=r"no cap.NAME.val.json there"):
        evaluate(place / "set")


def test_answers_for_a_server_are_the_best_images_of_each_query(gallery, evaluate, small_clip):
    place, names, _ = gallery
    words = ("red", "a hat", "less sea", "two of them", "night")
    rows = [
        {"pairid": 7 * i, "reference": names[i], "caption": word, "img_set": {"members": names[i : i + 6]}}
        for i, word in enumerate(words)
    ]
    (place / "cap.rc2.test1.json").write_text(json.dumps(rows))
    done = evaluate(place / "cap.rc2.test1.json", compose="slerp", submission=str(place / "answers"))
    scores, *_ = scores_of(gallery, small_clip, names[:5], [(word,) for word in words], "slerp")
    every, subset = (json.loads(file.read_text()) for file in done.files)
    assert [file.name for file in done.files] == ["recall.json", "recall_subset.json"] and not done.scores
    assert (every.pop("version"), every.pop("metric")) == ("rc2", "recall")
    assert (subset.pop("version"), subset.pop("metric")) == ("rc2", "recall_subset")
    for i in range(5):
        order = [names[j] for j in scores[i].argsort(descending=True).tolist() if j != i]
        assert every[str(7 * i)] == order[:50]
        assert subset[str(7 * i)] == [name for name in order if name in names[i + 1 : i + 6]][:3]

    rows = [{"reference_img_id": int(names[i]), "relative_caption": word, "id": i} for i, word in enumerate(words)]
    (place / "test.json").write_text(json.dumps(rows))
    (file,) = evaluate(place / "test.json", submission=str(place / "answers")).files
    scores, *_ = scores_of(gallery, small_clip, names[:5], [(word,) for word in words], "sum")
    wanted = {str(i): [int(names[j]) for j in scores[i].argsort(descending=True).tolist()] for i in range(5)}
    assert json.loads(file.read_text()) == wanted

    (place / "test.json").write_text(json.dumps([{**rows[0], "id": 1}, {**rows[1], "id": 1}]))
    with pytest.raises(DataError, match="each query needs a 'id' of its own"):
        evaluate(place / "test.json", submission=str(place / "answers"))
    (place / "lines.csv").write_text("\n".join(f"{names[i]}.png {DOMAINS[i % 2]} cup" for i in range(4)))
    with pytest.raises(ConfigError, match="--at: with --submission the server scores"):
        evaluate(place / "test.json", submission=str(place / "answers"), at="3")
    with pytest.raises(ConfigError, match="domain conversion has no server"):
        evaluate(place / "lines.csv", submission=str(place / "answers"))


def test_domains_are_asked_pair_by_pair_and_their_mean_is_over_pairs(gallery, evaluate, small_clip):
    place, names, _ = gallery
    lines = [
        f"set/{DOMAINS[i % 3]}/{CLASSES[i % 2]}/{i + 1:012d}.png {DOMAINS[i % 3]} {CLASSES[i % 2]}" for i in range(36)
    ]
    (place / "queries.csv").write_text("\n".join(lines[:9]))
    (place / "all.csv").write_text("\n".join(lines))
    done = evaluate(place / "queries.csv", gallery=str(place / "all.csv"), compose="slerp", at="2,4")
    wanted = {}
    for source in range(3):
        for target in range(3):
            if source == target:
                continue
            some = [i for i in range(9) if i % 3 == source]
            texts = [(DOMAINS[target].replace("_", " "),)] * len(some)
            scores, *_ = scores_of(gallery, small_clip, [f"{i + 1:012d}" for i in some], texts, "slerp")
            right = [
                [names.index(f"{j + 1:012d}") for j in range(36) if j % 3 == target and j % 2 == i % 2] for i in some
            ]
            ranks = metrics.target_ranks(scores, torch.tensor(right))
            part = f"{DOMAINS[source]} to {DOMAINS[target]}"
            wanted[part] = float(metrics.composed_average_precision(ranks).mean())
            own = by_name(done, part)
            assert own["mAP"].value == pytest.approx(wanted[part])
            assert own["R@4"].value == pytest.approx(float(metrics.recall(ranks, 4).mean()))
            assert own["P@2"].value == pytest.approx(float(metrics.precision(ranks, 2).mean()))
    mean = by_name(done, "mean")["mAP"]
    assert len(wanted) == 6 and mean.value == pytest.approx(np.mean(list(wanted.values())))
    assert mean.interval[0] < mean.value < mean.interval[1] and 0 < mean.chance < 1


def test_what_cannot_be_scored_is_one_line(gallery, evaluate):
    place = gallery[0]
    row = {"reference_img_id": 1, "relative_caption": "red", "id": 0}
    for name, value, message in (
        ("test.json", [row], "does not tell which images are right; the server of the set"),
        ("other.json", [{"a": 1}], "none of the files of CIRR, CIRCO and FashionIQ"),
        ("gone.json", [{**row, "target_img_id": 999, "gt_img_ids": [999]}], "1 of 2 images that it names are not in"),
        ("odd.json", [{**row, "target_img_id": 2, "gt_img_ids": None}], "not as CIRCO writes it"),
    ):
        (place / name).write_text(json.dumps(value))
        with pytest.raises(DataError, match=message):
            evaluate(place / name)
    (place / "odd.csv").write_text("a.png photo\n")
    with pytest.raises(DataError, match=r"odd.csv line 1: not 'path domain class'"):
        evaluate(place / "odd.csv")
    with pytest.raises(ConfigError, match="--top: --evaluate does not use it"):
        evaluate(place / "test.json", top=5)


def test_words_that_become_no_numbers_are_refused(gallery, evaluate, monkeypatch):
    from vladapt.core.engine.queries import IndexGallery

    place, names, rows = gallery
    one = {"reference_img_id": int(names[0]), "relative_caption": "red", "target_img_id": int(names[1]), "id": 0}
    (place / "one.json").write_text(json.dumps([{**one, "gt_img_ids": [int(names[1])]}]))
    monkeypatch.setattr(IndexGallery, "encode", lambda self, texts: torch.full((len(texts), rows.shape[1]), torch.nan))
    with pytest.raises(DataError, match="NaN"):
        evaluate(place / "one.json")
