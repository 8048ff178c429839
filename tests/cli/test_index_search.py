"""`index` and `search` as a user meets them."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run
from PIL import Image

from vladapt.core.engine import index as made_of_images
from vladapt.core.retrieval import above_chance
from vladapt.core.retrieval.head import write_head

from .conftest import files_below

faiss = pytest.importorskip("faiss", reason="extra retrieval is not installed")

SEGMENT = "segments/00000001"
FILES = {
    "index.json",
    "segments",
    SEGMENT,
    *(f"{SEGMENT}/{name}" for name in ("vectors.faiss", "entries.jsonl", "entries.offsets", "facts.parquet")),
}


@pytest.fixture
def index(vladapt, small_clip_spec):
    """`vladapt index` with the small backbone: index(folder, "--kind", "hnsw") -> Outcome, into photos.index."""

    def call(*arguments):
        given = [str(argument) for argument in arguments]
        out = [] if "--out" in given else ["--out", "photos.index"]
        tower = [] if "--backbone" in given else ["--backbone", small_clip_spec]
        return vladapt("index", *given, *tower, *out)

    return call


@pytest.fixture
def photos(index, colours):
    """An index of red, green and blue pictures."""
    outcome = index(colours)
    assert outcome.code == 0, outcome.err
    return "photos.index"


# Index


def test_index_says_what_it_made_and_how_to_search_it(index, colours, tmp_path):
    outcome = index(colours)
    assert outcome.code == 0
    assert "36 images encoded, 0 from the store" in outcome.out
    assert "photos.index (36 images, flat, 24 wide)" in outcome.out
    assert "vladapt search photos.index" in outcome.out
    assert files_below(tmp_path / "photos.index") == FILES


def test_what_the_words_of_a_backbone_cannot_find_is_told_when_the_index_is_made(index, colours, monkeypatch):
    loaded = made_of_images.load_backbone

    def noted(*how):
        towers = loaded(*how)
        towers.notes = ["its words are guesses"]
        return towers

    monkeypatch.setattr(made_of_images, "load_backbone", noted)
    assert "Note: Its words are guesses.\n" in index(colours).out
    assert "guesses" not in index(colours, "--add", "--only-new").out


def test_a_second_index_of_the_same_images_runs_no_backbone(index, colours, photos):
    made = index(colours, "--json").json
    assert (made["encoded"], made["from_store"], made["entries"]) == (0, 36, 36)


def test_options_reach_the_backbone(index, colours, photos, tmp_path):
    rows = (tmp_path / "photos.index" / SEGMENT / "vectors.faiss").read_bytes()
    assert index(colours, "--amp", "bf16", "--json").json["encoded"] == 36  # other features than those in the store
    assert (tmp_path / "photos.index" / SEGMENT / "vectors.faiss").read_bytes() != rows
    for option, value in (("--amp", "int4"), ("--batch-size", 0), ("--workers", -1), ("--device", "tpu9")):
        refused = index(colours, option, value)
        assert refused.code == 2 and f"{option} {value}" in refused.error


def test_json_of_index_has_its_facts(index, colours, small_clip):
    made = index(colours, "--kind", "ivf", "--json").json
    assert (made["holds"], made["kind"], made["dims"], made["skipped"]) == ("images", "ivf", 24, [])
    facts = json.loads(Path("photos.index/index.json").read_text())
    assert facts["backbone"]["fingerprint"] == small_clip.fingerprint and facts["kind"] == "ivf"
    assert facts["made_of"] == [str(colours)] and facts["versions"]["torch"]


def test_broken_images_are_skipped_and_listed_more_than_are_tolerated_stop(index, class_folders, tmp_path):
    data = class_folders("red", "green", "blue", each=12)
    (data / "red" / "broken.png").write_bytes(b"no image")
    outcome = index(data)
    assert outcome.code == 0 and "Skipped: " in outcome.out and "broken.png" in outcome.out
    for i in range(5):
        (data / "red" / f"broken{i}.png").write_bytes(b"no image")
    assert json.loads(Path("photos.index/index.json").read_text())["entries"] == 36
    made = index(data, "--out", "all.index", "--json").json
    assert len(made["skipped"]) == 6 and made["entries"] == 36 and made["from_store"] == 36
    stopped = index(data, "--out", "other.index", "--tolerate", 0.05)
    assert stopped.code == 1 and "more than 5%" in stopped.error and not (tmp_path / "other.index").exists()


def test_texts_are_indexed_line_by_line(index, vladapt, tmp_path):
    (tmp_path / "lines.txt").write_text("\ufeffa red bus\n\n  a green tree \r\na blue sea\n", encoding="utf-8")
    made = index("--texts", "lines.txt", "--json").json
    assert (made["holds"], made["entries"]) == ("texts", 3)
    hits = vladapt("search", "photos.index", "a green tree", "--json").json["hits"]
    assert (hits[0]["id"], hits[0]["captions"], hits[0]["source"]) == ("line 3", ["a green tree"], None)
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    shown = vladapt("search", "photos.index", "a green tree")
    assert "a green tree" in shown.out and "line 3" in shown.out


def test_an_image_finds_texts_too(index, vladapt, colours, tmp_path):
    (tmp_path / "lines.txt").write_text("a red bus\na green tree\n")
    index("--texts", "lines.txt")
    found = vladapt("search", "photos.index", "--image", colours / "red" / "00.png", "--json").json
    assert {hit["id"] for hit in found["hits"]} == {"line 1", "line 2"}


def test_a_domains_files_are_read_as_the_domain_reads_them(index, vladapt, tmp_path):
    pytest.importorskip("pydicom", reason="extra medical is not installed")
    made = index("sample", "--domain", "medical", "--json").json
    assert made["entries"] == 300
    found = vladapt("search", "photos.index", "a round cell", "--top", 3, "--html", "found.html", "--json").json
    assert len(found["hits"]) == 3
    assert (tmp_path / "found.html").read_text().count("data:image/jpeg") == 3


def test_a_file_of_pairs_gives_its_images_and_shows_their_captions(index, vladapt, colours, tmp_path):
    table = colours / "pairs.csv"
    table.write_text("image,caption\nred/00.png,a red thing\nred/00.png,still red\nblue/01.png,a blue thing\n")
    assert index(table, "--json").json["entries"] == 2
    hits = vladapt("search", "photos.index", "--image", colours / "red" / "00.png", "--json").json["hits"]
    assert hits[0]["captions"] == ["a red thing", "still red"] and hits[0]["source"] == str(colours / "red" / "00.png")
    shown = vladapt("search", "photos.index", "red", "--html", "found.html")
    assert "still red" in shown.out and "a blue thing" in shown.out
    assert (tmp_path / "found.html").read_text().count("data:image/jpeg") == 2


def test_images_in_a_tar_file_are_found_and_shown(index, vladapt, colours, tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name in ("red", "blue"):
            for file, content in ((f"{name}.png", (colours / name / "00.png").read_bytes()), (f"{name}.txt", b"words")):
                member = tarfile.TarInfo(file)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    assert index("shard.tar", "--json").json["entries"] == 2
    query = ("--image", colours / "blue" / "00.png", "--html", "found.html", "--json")
    hits = vladapt("search", "photos.index", *query).json["hits"]
    assert "blue" in hits[0]["id"] and hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert (tmp_path / "found.html").read_text().count("data:image/jpeg") == 3


def test_what_cannot_be_indexed_is_one_line(index, colours, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for arguments, said, code in (
        ([], "give either images (files or folders) or --texts FILE;", 2),
        ([colours, "--texts", "empty.txt"], "an index holds one kind", 2),
        (["gone"], "gone: no such file or folder", 1),
        (["--texts", "gone.txt"], "--texts gone.txt: cannot be read", 1),
        (["--texts", "empty.txt"], "--texts empty.txt: empty", 1),
        (["--texts", "bytes.txt"], "not UTF-8 text", 1),
        (["--texts", "empty.txt", "--domain", "medical"], "omit it with --texts", 2),
        ([colours, "--kind", "tree"], "--kind tree: give one of flat, hnsw, ivf", 2),
        ([colours, "--task", "classification"], "--task: is an option of a domain", 2),
        ([colours, "--set", "data.window=lung"], "--set data.window: is an option of a domain", 2),
        ([colours, "--out", str(colours)], "holds something other than an index", 1),
        ([colours, "--backbone", "embeded"], "embedded", 2),
    ):
        outcome = index(*arguments)
        assert outcome.code == code and said in outcome.error, (arguments, outcome)
    assert not (tmp_path / "photos.index").exists()


def test_without_faiss_both_commands_say_how_to_get_it(index, vladapt, photos, colours, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    for outcome in (index(colours), vladapt("search", photos, "red")):
        assert outcome.code == 1 and "pip install 'vladapt[retrieval]'" in outcome.error


# Search


def test_an_image_finds_itself_first(vladapt, photos, colours):
    target = colours / "green" / "03.png"
    hits = vladapt("search", photos, "--image", target, "--top", 4, "--json").json["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert hits[0]["source"] == str(target) and hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert sorted((hit["score"] for hit in hits), reverse=True) == [hit["score"] for hit in hits]


def test_words_find_what_the_backbone_says(vladapt, photos, colours, small_clip):
    files = sorted(colours.rglob("*.png"))
    pixels = torch.stack([small_clip.preprocess()(np.array(Image.open(file))) for file in files])
    with torch.inference_mode():
        cosines = small_clip.encode_image(pixels) @ small_clip.encode_text(["a red thing"])[0]
    wanted = cosines.sort(descending=True).values.tolist()
    found = vladapt("search", photos, "a red thing", "--top", 36, "--json").json
    assert found["query"] == {"text": "a red thing", "image": None, "weight": None}
    assert [hit["score"] for hit in found["hits"]] == pytest.approx(wanted, abs=1e-5)
    assert found["hits"][0]["source"] == str(files[int(cosines.argmax())])


def test_words_and_image_are_mixed_by_weight(vladapt, photos, colours):
    def scores(*options):
        hits = vladapt("search", photos, *options, "--top", 36, "--json").json["hits"]
        return {hit["id"]: hit["score"] for hit in hits}

    both = ("a red thing", "--image", colours / "blue" / "00.png")
    half = scores(*both)
    assert half == scores(*both, "--weight", 0.5) != scores(*both, "--weight", 0.8)
    assert scores(*both, "--weight", 1) == pytest.approx(scores("a red thing"), abs=1e-5)
    assert scores(*both, "--weight", 0) == pytest.approx(scores(*both[1:]), abs=1e-5)


def test_whether_the_best_answer_stands_out_is_told_first(vladapt, photos, monkeypatch):
    search = ("search", photos, "a dog on the beach")
    among = vladapt(*search, "--json").json["among_drawn"]
    assert among["drawn"] == 39 and 1 <= among["rank"] <= 40 and among["stands_out"] is (among["rank"] <= 2)
    always, never = 1.0, 0.0
    monkeypatch.setattr(above_chance, "LEVEL", never)
    told, strict = vladapt(*search), vladapt(*search, "--strict", "--json")
    assert told.code == 0 and told.out.startswith("The best answer does not stand out: ")
    assert strict.code == 1 and strict.error.startswith("vladapt: --strict: The best answer does not stand out")
    assert len(json.loads(strict.out)["hits"]) == 10
    monkeypatch.setattr(above_chance, "LEVEL", always)
    assert "stand out" not in vladapt(*search).out and vladapt(*search, "--strict").code == 0


@pytest.mark.parametrize(
    "asked", [("--image", "red/00.png"), ("red", "--image", "red/00.png"), ("--queries", "q.txt", "--out", "o.jsonl")]
)
def test_a_strict_search_is_of_one_query_of_words_alone(vladapt, photos, asked):
    refused = vladapt("search", photos, *asked, "--strict")
    assert refused.code == 2 and "--strict: looks at the answer to one query of words alone" in refused.error


def test_a_strict_search_of_texts_is_refused(vladapt, index, tmp_path):
    (tmp_path / "lines.txt").write_text("a red thing\na blue thing\n")
    index("--texts", "lines.txt")
    refused = vladapt("search", "photos.index", "a red thing", "--strict")
    assert refused.code == 1 and "holds texts, so no answer is compared" in refused.error


def test_the_table_has_rank_score_and_file(vladapt, photos):
    outcome = vladapt("search", photos, "a red thing", "--top", 2)
    assert outcome.code == 0 and outcome.err == ""
    assert all(word in outcome.out for word in ("rank", "score", "id")) and outcome.out.count(".png") == 2


def test_the_page_holds_the_pictures(vladapt, photos, colours, tmp_path):
    image = colours / "red" / "00.png"
    outcome = vladapt("search", photos, "red <b>", "--image", image, "--top", 5, "--html", "pages/found.html")
    assert "Page: pages/found.html" in outcome.out
    html = (tmp_path / "pages" / "found.html").read_text()
    assert html.count("data:image/jpeg") == 6 and "red &lt;b&gt;" in html and "<b>red" not in html
    (colours / "red" / "00.png").unlink()
    vladapt("search", photos, "red", "--top", 36, "--html", "again.html")
    assert (tmp_path / "again.html").read_text().count("data:image/jpeg") == 35
    assert "no longer there" in (tmp_path / "again.html").read_text()


def test_another_process_in_another_folder_searches_it(photos, colours, tmp_path):
    command = ["-m", "vladapt", "search", tmp_path / photos, "red", "--json"]
    done = run(command, cwd=colours, env={**os.environ, "VLADAPT_CACHE": str(tmp_path / "another-cache")})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(json.loads(done.stdout)["hits"]) == 10


def test_the_backbone_of_the_index_is_asked_for_by_fingerprint(vladapt, photos, small_clip_spec, tmp_path):
    config, weights = small_clip_spec.removeprefix("open_clip:").split("@")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(Path(weights).read_bytes())
    same = vladapt("search", photos, "red", "--backbone", f"open_clip:{config}@{moved}", "--json")
    assert same.code == 0 and same.json["hits"] == vladapt("search", photos, "red", "--json").json["hits"]

    from safetensors.torch import load_file, save_file

    tensors = load_file(moved)
    tensors["text_projection"] += 1
    save_file(tensors, moved)
    other = vladapt("search", photos, "red", "--backbone", f"open_clip:{config}@{moved}")
    assert other.code == 1 and "made with backbone" in other.error and "as it is now" in other.error


def test_another_preprocessing_is_refused(vladapt, photos):
    facts = json.loads(Path("photos.index/index.json").read_text())
    facts["reading"]["transform"] = "{}"
    write_head(Path("photos.index"), facts)
    outcome = vladapt("search", photos, "red")
    assert outcome.code == 1 and "preprocessed differently" in outcome.error


def test_what_cannot_be_searched_is_one_line(vladapt, photos, colours, tmp_path):
    for arguments, said, code in (
        ([photos], "nothing to search for", 2),
        ([photos, " "], "QUERY: the value is empty; give one", 2),
        ([photos, "red", "--weight", 0.3], "mixes a text and an image", 2),
        ([photos, "red", "--image", colours / "red" / "00.png", "--weight", 2], "from 0 (image only)", 2),
        ([photos, "red", "--top", 0], "--top 0: give 1 or more", 2),
        ([photos, "--image", "gone.png"], "gone.png: no such file", 1),
        ([photos, "--image", colours], "holds 36 images; give one", 1),
        ([photos, "red", "--html", str(colours)], "a folder; give a file", 2),
        (["gone.index", "red"], "gone.index: no such index", 1),
        ([colours, "red"], "no index.json there", 1),
    ):
        outcome = vladapt("search", *arguments)
        assert outcome.code == code and said in outcome.error, (arguments, outcome)


def test_a_damaged_index_is_one_line(vladapt, photos, tmp_path):
    file = tmp_path / photos / SEGMENT / "vectors.faiss"
    file.write_bytes(file.read_bytes()[:-8])
    outcome = vladapt("search", photos, "red")
    assert outcome.code == 1 and "vectors.faiss: damaged" in outcome.error


@pytest.mark.parametrize("command", ["index", "search"])
def test_help_has_an_example(vladapt, command):
    outcome = vladapt(command, "--help")
    assert outcome.code == 0 and f"Example: vladapt {command}" in " ".join(outcome.out.split())
