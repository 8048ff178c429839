"""Scores by BLIP's head for image-text matching, of a tiny one with random weights, and the filter by them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tar_shards import shard, simple
from tiny_blip import write_blip

from vladapt.core.curation.match import Matcher, MatchStage
from vladapt.core.engine.curate import curate
from vladapt.core.engine.curate_score import score_pairs
from vladapt.core.errors import CapabilityError, ConfigError, DataError

transformers = pytest.importorskip("transformers", reason="extra hf is not installed")

TEXTS = ["a dog", "photo of a cat", "b c d e", "dog", "a b c d e f g h a b c d", "cat of"]
PICTURES = [
    Image.fromarray(np.random.default_rng(n).integers(0, 256, (8, 8, 3)).astype(np.uint8)) for n in range(len(TEXTS))
]


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return write_blip(tmp_path_factory.mktemp("itm"), "BlipForImageTextRetrieval")


@pytest.fixture(scope="module")
def scored(blip, tmp_path_factory):
    """Twenty pairs of a tar, of which some have no text and one no image that can be read, and their scores."""
    folder = tmp_path_factory.mktemp("scored")
    members = {**simple(20), "0003.png": b"no image"}
    for number in range(20):
        members[f"{number:04d}.txt"] = TEXTS[number % len(TEXTS)].encode()
    for number in (5, 6):
        members.pop(f"{number:04d}.txt")
    tar = shard(folder / "pool.tar", members)
    return tar, score_pairs(str(blip), [tar], folder / "scores", batch_size=4), folder


def loaded(folder, tokens=35):
    return Matcher.load(folder, torch.device("cpu"), torch.float32, tokens)


def test_scores_are_those_of_transformers_own_model(blip):
    model = transformers.BlipForImageTextRetrieval.from_pretrained(blip).eval()
    processor = transformers.BlipProcessor.from_pretrained(blip)
    itm, itc = loaded(blip).scores(PICTURES, TEXTS)
    for row, (picture, text) in enumerate(zip(PICTURES, TEXTS)):
        inputs = processor(images=picture, text=text, return_tensors="pt")
        with torch.no_grad():
            logits, cosine = model(**inputs).itm_score, model(**inputs, use_itm_head=False).itm_score
        assert itm[row].item() == pytest.approx(logits.softmax(dim=1)[0, 1].item(), abs=1e-6)
        assert itc[row].item() == pytest.approx(cosine.item(), abs=1e-6)
        assert (itm[row] > 0.5) == (logits.argmax() == 1)
    assert 0 < (itm > 0.5).sum() < len(TEXTS) and itm.std() > 0.05


def test_a_score_is_of_its_pair_alone_and_of_the_first_tokens(blip):
    matcher = loaded(blip)
    together, _ = matcher.scores(PICTURES, TEXTS)
    alone = [matcher.scores([picture], [text])[0].item() for picture, text in zip(PICTURES, TEXTS)]
    assert together.tolist() == pytest.approx(alone, abs=1e-6)
    short, _ = loaded(blip, tokens=6).scores(PICTURES, TEXTS)
    cut, _ = matcher.scores([PICTURES[4]], ["a b c d"])
    assert short[4].item() == pytest.approx(cut.item(), abs=1e-6) and abs(short[4] - together[4]) > 1e-3
    assert short[3].item() == pytest.approx(together[3].item(), abs=1e-6)


def test_scores_are_written_by_id_and_what_has_no_text_has_none(blip, scored):
    _, made, _ = scored
    assert (made.pairs, made.unreadable) == (19, 1) and made.examples[0][0] == "pool:0003"
    (file,) = Path(made.folder).glob("part-*.parquet")
    rows = {row["id"]: row for row in pq.read_table(file).to_pylist()}
    assert [name for name, row in rows.items() if row["itm"] is None] == ["pool:0005", "pool:0006"]
    assert all((row["itm"] is None) == (row["itc"] is None) for row in rows.values())
    assert {row["scorer"] for row in rows.values()} == {made.scorer}
    assert MatchStage.of(str(blip)).settings != MatchStage.of(str(blip), tokens=9).settings
    assert MatchStage.of(str(blip)).settings != MatchStage.of(str(blip), precision="bfloat16").settings


def test_the_filter_keeps_what_more_probably_matches_than_not(scored):
    tar, made, folder = scored
    rows = {row["id"]: row["itm"] for row in pq.read_table(made.folder).to_pylist()}
    curated = curate("blip", [tar], folder / "curated", columns=(str(folder / "scores"),))
    kept = {row["id"] for row in pq.read_table(curated.folder).to_pylist() if row["keep"]}
    assert kept == {name for name, itm in rows.items() if itm is not None and itm > 0.5}
    assert 0 < len(kept) < len(rows)
    assert curated.dropped == {"no score": 3, "image and text do not match": 20 - 3 - len(kept)}
    highest = max(rows[name] for name in kept)
    strict = curate("blip", [tar], folder / "curated", columns=(made.folder,), options={"threshold": highest})
    assert strict.kept == 0, "above, not at it"


def test_columns_go_with_those_of_the_sources(scored, tmp_path):
    _, made, _ = scored
    table = pa.table(
        {"id": ["pool:0001", "pool:0002", "other"], "text": ["one two"] * 3, "language": ["en", "de", "en"]}
    )
    pq.write_table(table, tmp_path / "own.parquet")
    how = {"sources": [tmp_path / "own.parquet"], "out": tmp_path / "out", "columns": (made.folder,)}
    by_score = curate("clip-score", options={"column": "itc", "fraction": 0.34}, reads=["language"], **how)
    assert (by_score.pairs, by_score.kept) == (3, 2), "'other' has no score"
    assert curate("caption", options={"language": "de"}, reads=["itc"], **how).kept == 1


def test_what_is_missing_is_one_line(blip, scored, tmp_path):
    tar, made, _ = scored
    with pytest.raises(DataError, match=r"no column 'itm'.*--columns"):
        curate("blip", [tar], tmp_path / "out")
    with pytest.raises(DataError, match="no shards of columns; give a folder of `vladapt curate score`"):
        curate("blip", [tar], tmp_path / "out", columns=(str(tmp_path),))
    with pytest.raises(DataError, match="column 'itc' comes from another folder, too"):
        curate("blip", [tar], tmp_path / "out", columns=(made.folder, made.folder))
    with pytest.raises(ConfigError, match=r"option precision=.* of"):
        score_pairs(str(blip), [tmp_path], tmp_path / "out", precision="int8")
    with pytest.raises(ConfigError, match="tokens: give 3 or more"):
        MatchStage.of(str(blip), tokens=2)
    captioner = write_blip(tmp_path, "BlipForConditionalGeneration")
    with pytest.raises(CapabilityError, match=r"tells no match of image and text.*it has no itm_head"):
        loaded(captioner)
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(CapabilityError, match="kind 'bert' tells no match"):
        loaded(tmp_path)
