"""`index --add`, `--delete`, `--compact`, `--verify` and `search --queries` as a user meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vladapt.core.data.tables import read_table
from vladapt.core.retrieval import RetrievalIndex
from vladapt.core.retrieval.changes import IndexChange

pytest.importorskip("faiss", reason="extra retrieval is not installed")

WORDS = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("bus", "tree", "sea", "dog")]


@pytest.fixture
def index(vladapt, small_clip_spec):
    """index("--texts", "lines.txt") -> Outcome, into an.index, with the small backbone where a new index is made."""

    def call(*arguments, out: str = "an.index"):
        given = [str(argument) for argument in arguments]
        named = {"--add", "--delete", "--compact", "--verify", "--backbone"} & set(given)
        return vladapt("index", *given, *([] if named else ["--backbone", small_clip_spec]), "--out", out)

    return call


@pytest.fixture
def texts(index, tmp_path):
    """An index of twelve texts."""
    (tmp_path / "lines.txt").write_text("\n".join(WORDS) + "\n")
    assert index("--texts", "lines.txt").code == 0
    return "an.index"


def captions(outcome) -> list[str]:
    return [hit["captions"][0] for hit in outcome.json["hits"]]


def test_texts_are_added_with_the_backbone_of_the_index_and_known_again(index, vladapt, texts, tmp_path):
    (tmp_path / "more.txt").write_text("a red bus\na yellow moon\n")
    outcome = index("--texts", "more.txt", "--add", "--only-new")
    assert outcome.code == 0 and "Added: 1 text; 1 was there already." in outcome.out, outcome
    assert "an.index (13 texts, flat, 24 wide, 2 segments)" in outcome.out
    hits = vladapt("search", texts, "a yellow moon", "--top", 1, "--json")
    assert captions(hits) == ["a yellow moon"] and hits.json["hits"][0]["id"] == "more.txt line 2", "of no other file"
    made = index("--texts", "more.txt", "--add", "--only-new", "--json").json
    assert (made["added"], made["already_there"], made["entries"], made["segments"]) == (0, 2, 13, 2)
    assert index("--texts", "more.txt", "--add", "--json").json["entries"] == 15


def test_images_are_added_and_only_new_ones_are_encoded(index, vladapt, class_folders):
    data = class_folders("red", "green", each=6)
    assert index(data / "red").code == 0
    made = index(data, "--add", "--only-new", "--json").json
    assert (made["added"], made["already_there"], made["encoded"], made["entries"]) == (6, 6, 6, 12)
    (data / "green" / "06.png").write_bytes((data / "green" / "05.png").read_bytes()[:40])
    again = index(data, "--add", "--only-new")
    assert again.code == 0 and "Added: 0 images; 12 were there already." in again.out, "what is damaged is skipped"
    assert "06.png" in again.err + again.out and index(data, "--add", "--only-new", "--tolerate", 0).code == 1
    image = data / "green" / "03.png"
    found = vladapt("search", "an.index", "--image", image, "--top", 1, "--json").json["hits"][0]
    assert found["source"] == str(image) and found["score"] == pytest.approx(1, abs=1e-5)
    others = vladapt("search", "an.index", "--image", image, "--own-group", "no", "--top", 12, "--json").json
    assert others["query"]["text"] is None and str(image) not in {hit["source"] for hit in others["hits"]}
    assert len(others["hits"]) == 11


def test_entries_are_deleted_by_id_or_by_a_file_of_ids(index, vladapt, texts, tmp_path):
    assert "Deleted: 1 text;" in index("--delete", "line 1").out
    (tmp_path / "gone.txt").write_text("line 2\nline 12\n")
    made = index("--delete", "@gone.txt", "--json").json
    assert (made["deleted"], made["entries"]) == (2, 9)
    rest = captions(vladapt("search", texts, "a red bus", "--top", 20, "--json"))
    assert sorted(rest) == sorted(set(WORDS) - {WORDS[0], WORDS[1], WORDS[11]})
    assert index("--compact").code == 0 and index("--verify").out.startswith("All files are as they were written.")
    assert captions(vladapt("search", texts, "a red bus", "--top", 20, "--json")) == rest
    vectors = tmp_path / next(Path(texts).glob("segments/*/vectors.faiss"))
    vectors.write_bytes(vectors.read_bytes()[:-4] + b"else")
    damaged = index("--verify")
    assert damaged.code == 1 and "vectors.faiss: damaged" in damaged.error


def test_what_cannot_be_changed_is_one_line(index, texts, class_folders, small_clip_spec, tmp_path):
    config, weights = small_clip_spec.removeprefix("open_clip:").split("@")
    other = shutil.copy(weights, tmp_path / "other.safetensors")
    from safetensors.torch import load_file, save_file

    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, other)
    more = tmp_path / "more.txt"
    more.write_text("a yellow moon\n")
    photos = class_folders("red", each=2)
    for arguments, said, code in (
        (["--texts", more, "--add", "--backbone", f"open_clip:{config}@{other}"], "made with backbone", 1),
        (["--texts", more, "--add", "--kind", "hnsw"], "--kind hnsw: an.index was made with flat; omit it", 2),
        ([photos, "--add"], "--add: an.index holds texts, not images", 2),
        (["--texts", more, "--only-new"], "--only-new: is about an index that is there; give --add too", 2),
        (["--delete", "line 99"], "--delete line 99: not in an.index; nothing was deleted", 1),
        (["--delete", "@none.txt"], "--delete @none.txt: cannot be read (No such file", 1),
        (["--delete", "line 1", "--compact"], "--compact: cannot be given together with --delete", 2),
        (["--compact", "--texts", more], "--compact: changes the index at --out; omit the images, or the texts", 2),
        (["--texts", more, "--graph-threads", "2"], "--graph-threads: is for --kind hnsw; omit it for flat", 2),
        (["--verify", "--graph-threads", "2"], "--graph-threads: cannot be given together with --verify", 2),
        (["--verify", "--backbone", small_clip_spec], "--verify does not use it; omit it", 2),
        (["--texts", more, "--kind", "tree"], "--kind tree: give one of flat, hnsw, ivf, ivf-pq, ivf-sq8", 2),
    ):
        outcome = index(*arguments)
        assert outcome.code == code and said in outcome.error, (arguments, outcome)
    assert index("--compact", out="gone.index").error.endswith("give a folder that `vladapt index` wrote")
    with IndexChange(texts):
        assert "another process is changing this index; wait for it" in index("--texts", more, "--add").error
    assert len(RetrievalIndex.open(texts)) == len(WORDS)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_many_queries_find_what_each_finds_alone(vladapt, texts, tmp_path, ending):
    (tmp_path / "queries.txt").write_text("a red dog\n\n=a green sea\n")
    out = tmp_path / f"hits.{ending}"
    outcome = vladapt("search", texts, "--queries", "queries.txt", "--out", out, "--top", 3)
    assert outcome.code == 0 and f"2 queries, 6 results: {out}" in outcome.out, outcome
    alone = [vladapt("search", texts, "--text", text, "--top", 3, "--json") for text in ("a red dog", "=a green sea")]
    if ending == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(row["line"], row["query"]) for row in rows] == [(1, "a red dog"), (3, "=a green sea")]
        for row, other in zip(rows, alone):
            assert [hit["id"] for hit in row["hits"]] == [hit["id"] for hit in other.json["hits"]]
            assert row["hits"][0]["score"] == pytest.approx(other.json["hits"][0]["score"], abs=1e-5)
    else:
        table = read_table(out)
        assert list(table.columns) == ["line", "query", "rank", "score", "id", "source", "captions"]
        assert [row.text("captions") for row in table.rows] == captions(alone[0]) + captions(alone[1])
        assert out.read_text().splitlines()[4].startswith("3,'=a green sea,1,")  # no formula for a spreadsheet


def test_what_cannot_be_asked_of_many_queries_is_one_line(vladapt, texts, tmp_path):
    (tmp_path / "queries.txt").write_text("a red dog\n")
    (tmp_path / "empty.txt").write_text("\n")
    both = ["--queries", "queries.txt", "--out", "hits.csv"]
    for arguments, said, code in (
        (["--queries", "queries.txt"], "--queries queries.txt: give --out FILE too", 2),
        (["--out", "hits.csv"], "--out hits.csv: give words, --image or --queries FILE too", 2),
        (
            ["--queries", "queries.txt", "--out", "hits.xls"],
            "--out hits.xls: give a file that ends in .jsonl or .csv",
            2,
        ),
        (["--queries", "empty.txt", "--out", "hits.csv"], "--queries empty.txt: empty; write one text per line", 1),
        (["--queries", "none.txt", "--out", "hits.csv"], "--queries none.txt: cannot be read (No such file", 1),
        (["a dog", *both], "--queries queries.txt: holds the queries; omit 'a dog'", 2),
        ([*both, "--cluster", 0.9], "--cluster: is about one query; omit it, or --queries", 2),
        (
            [*both, "--weight", 0],
            "--weight: is about images; omit it, or name an image per line of --queries FILE.jsonl",
            2,
        ),
        ([*both, "--own-group", "no"], "--own-group: is about one query; omit it, or --queries", 2),
        ([*both, "--top", 0], "--top 0: give 1 or more", 2),
        ([*both, "--refine", "no"], "--refine no: an.index is of kind flat, which has no codes; omit it", 2),
    ):
        outcome = vladapt("search", texts, *arguments)
        assert outcome.code == code and said in outcome.error, (arguments, outcome)
    assert not (tmp_path / "hits.csv").exists()


def test_codes_are_refined_by_rows_unless_that_is_declined(index, vladapt, tmp_path):
    words = [f"{word} number {number}" for word in WORDS for number in range(30)]  # more than a code has values
    (tmp_path / "lines.txt").write_text("\n".join(words) + "\n")
    index("--texts", "lines.txt", "--kind", "ivf-pq")
    refined, coarse = (
        [hit["score"] for hit in vladapt("search", "an.index", words[0], *more, "--json").json["hits"]]
        for more in ([], ["--refine", "no"])
    )
    assert refined[0] == pytest.approx(1, abs=2e-3) and refined != coarse
