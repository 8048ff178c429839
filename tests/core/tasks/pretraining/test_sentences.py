"""Pre-training on sentences and their translations alone: from `join --untrained` to a backbone that is measured."""

from __future__ import annotations

import json

import pytest
import torch

from vladapt import CapabilityError, ConfigError, DataError, UnknownNameError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.recipe import Recipe
from vladapt.core.engine.join import join
from vladapt.core.tasks.pretraining.options import continual_plan_of, plan_of, plan_of_recipe
from vladapt.core.tasks.pretraining.pretrain import pretrain
from vladapt.core.tasks.pretraining.several import TextSplits, read_several
from vladapt.core.tasks.pretraining.translations import read_sentence_splits

transformers = pytest.importorskip("transformers", reason="extra hf is not installed")

COLOURS = ("red", "green", "blue", "big", "old", "wet", "dry", "new")
THINGS = ("cat", "dog", "car", "sea", "bus", "tree")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_clip_spec, small):
    """With `joined`, an image tower with texts of its own beside a small BERT, and `s.csv` of two languages."""
    place = tmp_path_factory.mktemp("sentences")
    (place / "bert").mkdir()
    width = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, **width)
    small.scrambled(transformers.BertModel(config), 0).save_pretrained(place / "bert")
    small.write_tokenizer(place / "bert", {"pad": 0, "unknown": 1, "start": 2, "end": 3})
    rows = [(f"a {c} {t}", f"{t} {c}", f"the {c} of the {t}") for c in COLOURS for t in THINGS]
    (place / "s.csv").write_text("\n".join(["en,de,ja", *(",".join(row) for row in rows)]))
    how = {"pooling": "mean", "untrained": "text-head"}
    made = join(Recipe(device="cpu"), small_clip_spec, f"hf:{place / 'bert'}", place / "joined", **how)
    assert (made.kind, made.map, made.metrics) == ("untrained", "text-head", {})
    return place


def plan(folder, out, **given):
    how = {"data": [str(folder / "s.csv")], "backbone": str(folder / "joined"), "device": "cpu", "out": str(out)}
    settings = {"epochs": 6, "batch_size": 16, "lr": 5e-3}
    return plan_of_recipe("m-clip", losses=None, settings=settings, sets=["warmup=4"], **{**how, **given})


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "model"
    return pretrain(plan(folder, out)), out


def test_translations_find_their_sentences_after_the_training(trained, folder, small_clip_spec):
    done, out = trained
    before, after = done.metrics["zero_shot"], done.metrics["adapted"]
    assert (done.metrics["test_images"], done.metrics["test_texts"]) == (5, 10)
    assert after["mean_recall"] > before["mean_recall"]
    notes = " ".join(done.notes)
    assert "48 sentences with 96 translations (de, ja)" in notes and "comes first after the training: de " in notes
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "entence to text" in report and "mage to text" not in report and "48 sentences with 96 texts" in report
    assert "on sentences as the training sees them" in report
    assert "* Sentence to text: " in (out / "README.md").read_text()
    history = json.loads((out / "history.json").read_text())
    assert history[-1]["m-clip"] < 0.8 * history[0]["m-clip"]
    made, own = load_backbone(str(done.model), "cpu"), load_backbone(small_clip_spec, "cpu")
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(made.encode_image(pixels), own.encode_image(pixels), atol=1e-6)
    assert made.fingerprint != load_backbone(str(folder / "joined"), "cpu").fingerprint
    assert float(made.logit_scale) == pytest.approx(float(own.logit_scale))


def test_several_files_of_sentences_are_mixed_by_their_weights(folder, tmp_path):
    rows = [line.split(",") for line in (folder / "s.csv").read_text().splitlines()]
    french = [f"{sentence},un {german}" for sentence, german, _ in rows[1:]]
    (tmp_path / "f.csv").write_text("\n".join(["en,fr", *french, *(f"a {c} bird,un {c}" for c in COLOURS)]))
    sources = {"data": [f"{folder / 's.csv'}=1", f"{tmp_path / 'f.csv'}=3"], "mixing": {"samples": 64}}
    done = pretrain(plan(folder, tmp_path / "out", **sources))
    ours, further = done.metrics["sources"]
    assert (ours["name"], further["name"]) == ("s", "f") and (ours["samples"], further["samples"]) == (96, 288)
    assert {each["metrics"]["test_images"] for each in (ours, further)} == {5, 6}
    assert done.metrics["adapted"]["mean_recall"] > done.metrics["zero_shot"]["mean_recall"]
    notes = " ".join(done.notes)
    assert "comes first after the training: de " in notes and ", fr " in notes


def test_a_sentence_that_another_file_holds_out_is_not_trained_on(folder, tmp_path):
    (tmp_path / "a.csv").write_text("en,de,split\n" + "".join(f"{n},{n},{'test' if n < 3 else ''}\n" for n in range(9)))
    (tmp_path / "b.csv").write_text("en,fr,split\n" + "".join(f"{n},{n},{'test' if n > 6 else ''}\n" for n in range(9)))
    asked = plan(folder, "out", data=[str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    splits = read_several(asked.sources, asked.mixing, lambda path: read_sentence_splits(path, 1, {}))
    trained = [[part.train[row][0] for row in range(len(part.train))] for part in splits.parts]
    assert trained == [["3", "4", "5", "6"]] * 2 and [len(part.test) for part in splits.parts] == [3, 2]
    assert splits.test.languages == ("de", "fr") and [splits.test[row] for row in (0, 4)] == [("0", "0"), ("8", "8")]
    assert "b: Left out of train and val because another set holds out the sentence: 3." in splits.notes
    with pytest.raises(ConfigError, match=r"texts without images, as all sources; .* or give --loss m-clip"):
        read_several(asked.sources, asked.mixing, TextSplits.read)


def test_sets_of_sentences_one_after_the_other_are_refused_before_all(folder, tmp_path):
    how = {"losses": ["m-clip"], "settings": {}, "out": str(tmp_path / "out"), "backbone": str(folder / "joined")}
    with pytest.raises(ConfigError, match="--loss m-clip: learns from sentences, and --then"):
        continual_plan_of(data=str(folder / "s.csv"), then=[str(folder / "t.csv")], device="cpu", **how)
    assert not (tmp_path / "out").exists()


def test_the_columns_and_the_split_are_options(folder, tmp_path):
    how = {"losses": ["m-clip"], "settings": {}, "out": str(tmp_path / "out"), "data": str(folder / "s.csv")}
    made = plan_of(sets=["data.translated=en,ja", "data.test=0.5"], **how)
    splits = read_sentence_splits(made.data, 1, made.data_options)
    assert [len(each) for each in (splits.train, splits.val, splits.test)] == [19, 5, 24]
    assert splits.train.languages == ("ja",)
    assert splits.identity != read_sentence_splits(made.data, 2, made.data_options).identity
    with pytest.raises(UnknownNameError, match="the reader of sentences has no option 'root'"):
        plan_of(sets=["data.root=x"], **how)


def test_what_cannot_be_learned_from_is_one_line(folder, tmp_path, small_clip_spec):
    (tmp_path / "one.csv").write_text("en,de\na cat,Katze\n")
    for given, error, said in [
        ({"data": [str(tmp_path / "one.csv")]}, DataError, "1 translations to train on"),
        ({"backbone": small_clip_spec}, CapabilityError, "needs a teacher; give --teacher SPEC"),
    ]:
        with pytest.raises(error, match=said):
            pretrain(plan(folder, tmp_path / "out", **given))
    with pytest.raises(DataError, match="no column image"):
        how = {"out": str(tmp_path / "out"), "backbone": str(folder / "joined"), "device": "cpu"}
        pretrain(plan_of(data=str(folder / "s.csv"), losses=["m-clip", "clip"], settings={}, **how))
