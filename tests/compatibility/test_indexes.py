"""Indexes of commit 94fbb0e find what they found there."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("faiss", reason="extra retrieval is not installed")

IMAGE = "new/0.png"
QUERIES = {
    "images": [["a red cat"], ["--image", IMAGE], ["a blue dog", "--image", IMAGE, "--weight", "0.3"]],
    "texts": [["the red cat"], ["--image", IMAGE]],
    "medical-hnsw": [["a blue dog"], ["--image", IMAGE]],
    "captioned-ivf": [["a blue dog"], ["--image", IMAGE]],
}
LIBRARY = {"images": "open_clip", "texts": "transformers", "medical-hnsw": "transformers", "captioned-ivf": "open_clip"}


@pytest.fixture
def search(capsys, place):
    """search(index, *words) -> (exit code, stdout, stderr) of the command."""
    from vladapt.cli import main

    def call(index, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["search", str(index), *words, "--device", "cpu", "--json"])
        return ended.value.code, *capsys.readouterr()

    return call


def hits(output: str) -> list[list]:
    """[id, captions, score], the best first."""
    return [[hit["id"], hit["captions"], hit["score"]] for hit in json.loads(output)["hits"]]


@pytest.mark.parametrize("name", QUERIES)
def test_an_index_finds_what_it_found(search, expected, name):
    pytest.importorskip(LIBRARY[name])
    for query, then in zip(QUERIES[name], expected["hits"][name], strict=True):
        code, out, err = search(f"indexes/{name}", *query, "--top", "3")
        assert code == 0, err
        now = hits(out)
        assert [hit[:2] for hit in now] == [hit[:2] for hit in then]
        assert [hit[2] for hit in now] == pytest.approx([hit[2] for hit in then], abs=1e-5)


def test_a_page_of_an_index_names_what_was_found(search, place, tmp_path):
    pytest.importorskip("open_clip")
    code, out, err = search("indexes/images", "a red cat", "--html", str(tmp_path / "found.html"))
    assert code == 0, err
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert all(hit[0] in page for hit in hits(out))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": 99}, "format 99"), ({"kind": "of tomorrow"}, "kind"), (None, "damaged")],
    ids=["newer format", "unknown kind", "cut"],
)
def test_an_index_that_cannot_be_read_is_one_line(search, place, tmp_path, change, said):
    copy = shutil.copytree(place / "indexes" / "texts", tmp_path / "index")
    if change is None:
        (copy / "entries.jsonl").write_bytes((copy / "entries.jsonl").read_bytes()[:-9])
    else:
        info = json.loads((copy / "index.json").read_text(encoding="utf-8"))
        (copy / "index.json").write_text(json.dumps({**info, **change}), encoding="utf-8")
    code, out, err = search(copy, "a cat")
    assert code != 0 and out == ""
    assert err.startswith("vladapt: ") and err.count("\n") == 1 and said in err
