"""Sets in CLIP_benchmark's layout: the published rule, computed again image by image, and files that are not whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from vladapt.core.bench.places import sets_at
from vladapt.core.data.images import decode_bytes
from vladapt.core.errors import DataError

from .conftest import encoded, write_tar

NAMES = ["red panda", "green_house", "blue", "bell pepper", "tree", "sea", "fog"]
TEMPLATES = ["a photo of a {c}.", "{c}, a kind of {c}"]
LABELS = [(3 * number) % 7 for number in range(24)]
FILES = {"names": "\n".join(NAMES) + "\n\n", "templates": "\n".join(TEMPLATES)}


@pytest.fixture(scope="module")
def classes_set(write_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "wds_things"
    return write_set(folder, ("cls", [str(label).encode() for label in LABELS]), **FILES)


def checked(folder, towers, **options):
    (benchmark,) = sets_at([str(folder)], options)
    benchmark.check(towers)
    return benchmark


def by_measure(benchmark, towers):
    return {score.measure: score for score in benchmark.score(towers)}


def image_rows(backbone, count):
    """(N, D) unit rows, one image after the other."""
    transform, rows = backbone.preprocess(False), []
    for number in range(count):
        pixels = transform(decode_bytes(encoded(number, "WEBP" if number % 2 else "PNG"), "drawn"))
        rows.append(backbone.encode_image(pixels[None]))
    return torch.cat(rows).detach()


def class_rows(backbone):
    rows = []
    for name in NAMES:
        features = backbone.encode_text([template.format(c=name) for template in TEMPLATES]).detach()
        mean = (features / features.norm(dim=-1, keepdim=True)).mean(dim=0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def test_classes_are_scored_by_the_prompts_of_the_folder(classes_set, towers, small_clip):
    scores = by_measure(checked(classes_set, towers), towers)
    similar, labels = image_rows(small_clip, 24) @ class_rows(small_clip).T, torch.tensor(LABELS)
    answers, best = similar.argmax(dim=1), similar.topk(5, dim=1).indices
    assert len(answers.unique()) > 1
    recalls = [float((answers[labels == c] == c).double().mean()) for c in range(7)]
    assert scores["acc1"].value == pytest.approx(float((answers == labels).double().mean()))
    assert scores["acc5"].value == pytest.approx(float((best == labels[:, None]).any(dim=1).double().mean()))
    assert scores["mean_per_class_recall"].value == pytest.approx(np.mean(recalls))
    assert scores["acc1"].guessing == pytest.approx(1 / 7) and scores["acc5"].guessing == pytest.approx(5 / 7)
    for score in scores.values():
        assert score.count == 24 and score.interval[0] <= score.value <= score.interval[1]


def test_each_template_counts(classes_set, towers, tmp_path):
    import shutil

    one = shutil.copytree(classes_set, tmp_path / "one")
    (one / "zeroshot_classification_templates.txt").write_text("{c}, a kind of {c}")
    of_both, of_one = (checked(folder, towers) for folder in (classes_set, one))
    assert not torch.allclose(towers.class_vectors(of_both.prompts()), towers.class_vectors(of_one.prompts()))


def test_five_of_five_classes_are_no_score(write_set, towers, tmp_path):
    five = {**FILES, "names": "\n".join(NAMES[:5])}
    folder = write_set(tmp_path / "five", ("cls", [str(number % 5).encode() for number in range(10)]), **five)
    assert set(by_measure(checked(folder, towers), towers)) == {"acc1", "mean_per_class_recall"}


def test_a_query_of_retrieval_hits_where_any_of_its_texts_is_near(write_set, towers, small_clip, tmp_path):
    texts = [[f"thing {number}\u2028seen by day", f"number {number * 7} of many"] for number in range(14)]
    contents = ["\n".join(each).encode() + b"\n\n" for each in texts]
    folder = write_set(tmp_path / "captions", ("txt", contents), type="retrieval")
    scores = by_measure(checked(folder, towers), towers)
    flat = [text for each in texts for text in each]
    similar = image_rows(small_clip, 14) @ small_clip.encode_text(flat).detach().T  # (14, 28)
    of_text = torch.arange(14).repeat_interleave(2)
    for k in (1, 5, 10):
        to_text = (of_text[similar.topk(k, dim=1).indices] == torch.arange(14)[:, None]).any(dim=1)
        to_image = (similar.T.topk(k, dim=1).indices == of_text[:, None]).any(dim=1)
        assert scores[f"image_to_text/r{k}"].value == pytest.approx(float(to_text.double().mean()))
        assert scores[f"text_to_image/r{k}"].value == pytest.approx(float(to_image.double().mean()))
        assert scores[f"text_to_image/r{k}"].guessing == pytest.approx(k / 14)
    assert scores["image_to_text/r1"].guessing == pytest.approx(2 / 28)
    assert scores["text_to_image/r1"].count == 28


def test_several_labels_are_ranked(write_set, towers, small_clip, tmp_path):
    labels = np.random.default_rng(0).integers(0, 2, (20, 7))

    def array(row):
        file = io.BytesIO()
        np.save(file, row)
        return file.getvalue()

    folder = write_set(tmp_path / "several", ("npy", [array(row) for row in labels]), type="multilabel", **FILES)
    scores = by_measure(checked(folder, towers), towers)
    similar = (image_rows(small_clip, 20) @ class_rows(small_clip).T).numpy()
    of_class = []
    for column, truth in zip(similar.T, labels.T):
        hits = truth[np.argsort(-column)] == 1
        of_class.append((hits.cumsum() / np.arange(1, 21))[hits].mean())  # precision at each hit
    assert scores["mean_average_precision"].value == pytest.approx(np.mean(of_class))


def test_a_folder_of_sets_stands_for_them(classes_set, tmp_path):
    assert [each.title for each in sets_at([str(classes_set.parent)])] == ["wds_things"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("test/nshards.txt", "3", "2.tar: missing"),
        ("test/nshards.txt", "many", "'many' is no number of shards"),
        ("classnames.txt", "red\nblue", "has 2 names"),
        ("classnames.txt", None, "classnames.txt: missing"),
        ("classnames.txt", "red\n\nblue", "line 2 is empty, and labels count lines"),
        ("classnames.txt", "\n", "line 1 is empty"),
        ("zeroshot_classification_templates.txt", "a photo", "has no {c} for the class name"),
        ("dataset_type.txt", "boxes", "'boxes' is none of classification, multilabel, retrieval"),
        ("dataset_type.txt", "retrieval", "has no s0000.txt"),
    ],
)
def test_a_set_that_is_not_whole_is_told_before_anything_is_computed(
    classes_set, towers, tmp_path, file, content, said
):
    import shutil

    folder = shutil.copytree(classes_set, tmp_path / "damaged")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(DataError, match=said.replace("{", r"\{")):
        checked(folder, towers)


def test_a_tar_that_is_cut_short_is_not_the_set(classes_set, towers, tmp_path):
    import shutil

    folder = shutil.copytree(classes_set, tmp_path / "cut")
    tar = folder / "test" / "1.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(DataError, match="cut short"):
        checked(folder, towers)


def test_labels_are_never_unpickled(write_set, towers, tmp_path):
    file = io.BytesIO()
    np.save(file, np.array([{}] * 7, dtype=object), allow_pickle=True)
    folder = write_set(tmp_path / "pickled", ("npy", [file.getvalue()] * 2), type="multilabel", **FILES)
    with pytest.raises(DataError, match="cannot be read"):
        checked(folder, towers)


def test_an_image_that_cannot_be_read_is_left_out_with_its_label(towers, tmp_path):
    folder = tmp_path / "unreadable"
    members = [
        (f"s{number}.{end}", content)
        for number in range(40)
        for end, content in (
            ("png", b"no image" if number == 7 else encoded(number)),
            ("cls", str(number % 7).encode()),
        )
    ]
    write_tar(folder / "test" / "0.tar", members)
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text(FILES["names"])
    (folder / "zeroshot_classification_templates.txt").write_text(FILES["templates"])
    scores = by_measure(checked(folder, towers), towers)
    assert scores["acc1"].count == 39 and [name for name, _ in towers.skipped] == ["0.tar:s7"]
