"""Plain images with captions: which files tell them, and their scores."""

from __future__ import annotations

import json

import pytest
import torch

from vladapt.core.bench.places import sets_at
from vladapt.core.contracts.bench import BenchScore
from vladapt.core.data.images import decode_image

from .conftest import encoded


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """12 images of which 8 are for testing, with two captions each."""
    folder = tmp_path_factory.mktemp("captions")
    lines = ["image,caption,split"]
    for number in range(12):
        (folder / f"{number}.png").write_bytes(encoded(number))
        for text in (f"thing {number} by day", f"a kind of {number * number}"):
            lines.append(f"{number}.png,{text},{'test' if number < 8 else 'train'}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


def test_test_images_are_ranked_with_all_their_captions(table, towers, small_clip):
    (benchmark,) = sets_at([str(table)])
    benchmark.check(towers)
    scores = {score.measure: score for score in benchmark.score(towers)}
    transform = small_clip.preprocess(False)
    pixels = torch.stack([transform(decode_image(table.parent / f"{number}.png", {})) for number in range(8)])
    texts = [text for n in range(8) for text in (f"thing {n} by day", f"a kind of {n * n}")]
    similar = (small_clip.encode_image(pixels) @ small_clip.encode_text(texts).T).detach()
    of_text = torch.arange(8).repeat_interleave(2)
    right = (of_text[similar.topk(5, dim=1).indices] == torch.arange(8)[:, None]).any(dim=1)
    assert benchmark.size == 8 and scores["image_to_text/r5"].value == pytest.approx(float(right.double().mean()))
    assert 0 < scores["image_to_text/r5"].value < 1


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", "image,caption\nx.png,red", "captioned"),
        ("a.csv", "image,text,label\nx.png,red,1", "labelled"),
        ("a.csv", "path,label\nx.png,red", "labelled"),
        ("a.tsv", "file\tcaption\nx.png\tred", "captioned"),
        ("a.jsonl", json.dumps({"image": "x.png", "caption": "red"}), "captioned"),
        ("a.jsonl", "no json", "labelled"),
        ("captions_val.json", "{}", "captioned"),
        ("a.tar", "", "captioned"),
        ("folder/x.txt", "red", "captioned"),
        ("folder/red/x.nothing", "red", "labelled"),
    ],
)
def test_captions_are_told_by_names_and_columns(tmp_path, name, content, kind):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    if "folder" in name:
        file.with_suffix(".png").write_bytes(encoded(0))
    place = tmp_path / "folder" if "folder" in name else file
    assert [each.kind for each in sets_at([str(place)])] == [kind]


def test_images_of_a_group_count_together():
    from vladapt.core.bench.scoring import retrieval_scores

    images = torch.eye(40)
    texts = images.roll(20, 0) * (torch.arange(40) >= 20)[:, None] + images * (torch.arange(40) < 20)[:, None]
    widths = []
    for groups in (None, [str(number // 10) for number in range(40)]):
        score: BenchScore = retrieval_scores(images, texts, torch.arange(40), groups=groups)[3]
        widths.append(score.interval[1] - score.interval[0])
    assert widths[1] > 1.5 * widths[0]
