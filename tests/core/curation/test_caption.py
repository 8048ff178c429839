"""Captions by models of transformers: tiny ones with random weights."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tar_shards import png, shard, simple
from tiny_blip import write_blip

from vladapt.core.curation.caption import Captioner, CaptionStage, Writing
from vladapt.core.curation.match import Matcher
from vladapt.core.curation.pretrained import model_fingerprint
from vladapt.core.engine.curate_caption import caption_pairs
from vladapt.core.errors import CapabilityError, ConfigError, DataError

transformers = pytest.importorskip("transformers", reason="extra hf is not installed")

PICTURES = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (8, 8, 3)).astype(np.uint8)) for n in range(4)]


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return write_blip(tmp_path_factory.mktemp("blip"), "BlipForConditionalGeneration")


@pytest.fixture(scope="module")
def matcher(tmp_path_factory):
    return write_blip(tmp_path_factory.mktemp("matcher"), "BlipForImageTextRetrieval", seed=1)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A model that takes turns, as most newer ones do."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llava")
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    words = [*special.values(), "<image>", "user", "describe", "this", "answer", ":", "a", "b", "c", "d", "e", "f"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, additional_special_tokens=["<image>"], **special
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    text = transformers.LlamaConfig(
        **sizes, vocab_size=len(words), num_hidden_layers=1, pad_token_id=0, bos_token_id=2, eos_token_id=3
    )
    vision = transformers.CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=16, patch_size=8)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=4)
    model = transformers.LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 1)
    model.save_pretrained(folder)
    turns = (
        "{% for m in messages %}user : {% for c in m.content %}{% if c.type == 'image' %}<image> "
        "{% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}answer :"
    )
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=turns,
    ).save_pretrained(folder)
    return folder


def test_a_model_that_takes_turns_is_asked_and_its_answer_alone_is_the_caption(llava):
    captioner = Captioner.load(llava, torch.device("cpu"), torch.float32)
    how = Writing(prompt="describe this", tokens=4)
    together = captioner.write(PICTURES, how, 0)
    assert together == [captioner.write([picture], how, 0)[0] for picture in PICTURES]
    assert len(set(together)) > 1 and all(len(caption.split()) <= 4 for caption in together)
    assert captioner.write(PICTURES, Writing(tokens=4), 0) != together


def captions_of(folder, writing=None, seed=0):
    captioner = Captioner.load(folder, torch.device("cpu"), torch.float32)
    return captioner.write(PICTURES, writing or Writing(tokens=6), seed)


def test_captions_are_those_of_the_model_itself(blip):
    model = transformers.BlipForConditionalGeneration.from_pretrained(blip).eval()
    processor = transformers.BlipProcessor.from_pretrained(blip)
    expected = []
    for picture in PICTURES:
        made = model.generate(**processor(images=picture, return_tensors="pt"), max_new_tokens=6, do_sample=False)
        expected.append(processor.decode(made[0], skip_special_tokens=True))
    assert captions_of(blip) == expected and len(set(expected)) > 1 and all(expected)


def test_a_prompt_leads_on_and_is_not_part_of_the_caption(blip):
    plain, led = captions_of(blip), captions_of(blip, Writing(prompt="a photo of", tokens=6))
    assert led != plain and not any(caption.startswith("a photo of") for caption in led)


def test_each_option_changes_the_captions(blip):
    plain = captions_of(blip)
    assert captions_of(blip, Writing(tokens=2)) != plain
    assert captions_of(blip, Writing(tokens=6, repetition=5.0)) != plain
    drawn = captions_of(blip, Writing(tokens=6, top_p=1.0), seed=1)
    state = torch.get_rng_state()
    assert drawn == captions_of(blip, Writing(tokens=6, top_p=1.0), seed=1) != plain
    assert drawn != captions_of(blip, Writing(tokens=6, top_p=1.0), seed=2)
    assert drawn != captions_of(blip, Writing(tokens=6, top_p=0.05), seed=1)
    assert torch.equal(torch.get_rng_state(), state), "what others draw stays as it is"


def test_beams_are_those_of_the_model(blip, monkeypatch):
    """One so small is too sure of its words for another caption by beams."""
    captioner, asked = Captioner.load(blip, torch.device("cpu"), torch.float32), []
    generate = captioner.model.generate
    monkeypatch.setattr(captioner.model, "generate", lambda **how: asked.append(how) or generate(**how))
    captioner.write(PICTURES, Writing(tokens=3, beams=3), 0)
    assert [how["num_beams"] for how in asked] == [3]


def test_shards_of_captions_are_written_by_ids(blip, tmp_path):
    members = simple(5)
    members["0003.png"] = b"no image"
    tar = shard(tmp_path / "pool.tar", members)
    how = {"tokens": 6, "top_p": 0.9, "seed": 4, "batch_size": 2}
    made = caption_pairs(str(blip), [tar], tmp_path / "out", **how)
    assert (made.captions, made.unreadable) == (4, 1) and made.examples[0][0] == "pool:0003"
    (file,) = Path(made.folder).glob("part-*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert [row["id"] for row in rows] == ["pool:0000", "pool:0001", "pool:0002", "pool:0004"]
    assert {row["captioner"] for row in rows} == {made.captioner} and all(row["caption"] for row in rows)
    again = caption_pairs(str(blip), [tar], tmp_path / "again", **how)
    assert Path(again.folder, file.name).read_bytes() == file.read_bytes()
    assert caption_pairs(str(blip), [tar], tmp_path / "out", **{**how, "seed": 5}).folder != made.folder


def test_a_matcher_tells_which_captions_match_their_image(blip, matcher, tmp_path):
    tar = shard(tmp_path / "pool.tar", simple(3))
    made = caption_pairs(str(blip), [tar], tmp_path / "out", tokens=6, matcher=str(matcher))
    (file,) = Path(made.folder).glob("part-*.parquet")
    rows = pq.read_table(file).to_pylist()
    captions = [row["caption"] for row in rows]
    pictures = [Image.open(io.BytesIO(png(number))).convert("RGB") for number in range(3)]
    itm, itc = Matcher.load(matcher, torch.device("cpu"), torch.float32).scores(pictures, captions)
    assert [row["caption_itm"] for row in rows] == pytest.approx(itm.tolist(), abs=1e-6)
    assert [row["caption_itc"] for row in rows] == pytest.approx(itc.tolist(), abs=1e-6)
    assert {row["caption_scorer"] for row in rows} == {model_fingerprint(matcher)} != {made.captioner}
    plain = caption_pairs(str(blip), [tar], tmp_path / "out", tokens=6)
    assert plain.folder != made.folder
    (file,) = Path(plain.folder).glob("part-*.parquet")
    assert pq.read_schema(file).names == ["id", "caption", "captioner"]


def test_a_model_without_the_weights_that_write_is_refused(matcher):
    with pytest.raises(CapabilityError, match=r"writes no captions; .*it has no text_decoder"):
        Captioner.load(matcher, torch.device("cpu"), torch.float32)


def test_what_writes_no_captions_is_refused(blip, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        CaptionStage.of(str(tmp_path / "none"))
    wrong = {"tokens": 0}, {"top_p": 1.5}, {"repetition": 0.0}, {"beams": 0}, {"precision": "int8"}
    for each in (*wrong, {"top_p": 0.5, "beams": 2}):
        with pytest.raises(
            ConfigError, match="beams are for" if len(each) == 2 else f"option {next(iter(each))}=.* of"
        ):
            caption_pairs(str(blip), [tmp_path], tmp_path / "out", **each)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CapabilityError, match="kind 'bert' writes no captions"):
        Captioner.load(tmp_path, torch.device("cpu"), torch.float32)
    (tmp_path / "config.json").write_text((blip / "config.json").read_text())
    with pytest.raises(DataError, match="cannot be loaded"):
        Captioner.load(tmp_path, torch.device("cpu"), torch.float32)
