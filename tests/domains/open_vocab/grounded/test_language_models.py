"""mmdet's BERT on today's transformers: masks mean what they meant, and what is missing is told in one line."""

import copy
import json
import shutil

import pytest
import torch

from vladapt.core.errors import CapabilityError, DataError
from vladapt.domains.open_vocab.stack.language_models import pair_mask

mmdet_bert = pytest.importorskip("mmdet.models.language_models.bert")
SEPARATORS = ["[CLS]", "[SEP]", ".", "?"]


def language_model(folder, **options):
    return mmdet_bert.BertModel(folder, max_tokens=16, **options).eval()


@pytest.fixture(scope="module")
def of_grounding_dino(small_bert):
    options = {"pad_to_max": False, "use_sub_sentence_represent": True, "special_tokens_list": SEPARATORS}
    return language_model(small_bert, **options)


@torch.no_grad()
def test_a_class_name_does_not_see_the_others(of_grounding_dino):
    """Grounding DINO's masks are of token pairs; read as anything else, the words would mix."""
    one = of_grounding_dino(["red circle. blue square. "])
    other = of_grounding_dino(["red circle. blue cat. "])
    assert one["masks"].ndim == 3
    changed = (one["embedded"] - other["embedded"])[0].abs().amax(dim=-1) > 0  # [CLS] red circle . blue square . [SEP]
    assert changed.tolist() == [False, False, False, False, True, True, True, False]


@torch.no_grad()
def test_a_pair_mask_is_the_mask_of_each_part_alone(of_grounding_dino):
    """The words of one class encoded by BERT itself, in a sentence of their own with the same positions."""
    whole = of_grounding_dino(["red circle. blue square. "])
    ids = of_grounding_dino.tokenizer(["blue square."], add_special_tokens=False, return_tensors="pt").input_ids
    alone = of_grounding_dino.language_backbone.body.model(input_ids=ids, position_ids=torch.arange(3)[None])
    torch.testing.assert_close(whole["embedded"][:, 4:7], alone.last_hidden_state)


@torch.no_grad()
def test_padding_is_not_seen(small_bert):
    """GLIP pads captions to the full length."""
    padded = language_model(small_bert)(["red circle"])
    bare = language_model(small_bert, pad_to_max=False)(["red circle"])
    assert padded["embedded"].shape[1] == 16 and bare["embedded"].shape[1] == 4
    torch.testing.assert_close(padded["embedded"][:, :4], bare["embedded"])
    assert padded["embedded"][:, 4:].abs().sum() == 0


def test_the_layer_between_fusions_is_bert_s_own(wide_bert):
    """GLIP's head carries BERT layers: with BERT's weights they give what BERT gives."""
    import transformers
    from mmdet.models.utils.vlfuse_helper import BertEncoderLayer

    model = transformers.BertModel.from_pretrained(wide_bert).eval()
    layer = BertEncoderLayer(model.config, clamp_min_for_underflow=True, clamp_max_for_overflow=True).eval()
    layer.load_state_dict(model.encoder.layer[0].state_dict())
    ids = torch.tensor([[2, 8, 10, 3, 0, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
        text = {"hidden": model.embeddings(input_ids=ids), "masks": mask}
        found = layer({"visual": [], "lang": text})["lang"]["hidden"]
    torch.testing.assert_close(found[:, :4], expected[:, :4], atol=1e-5, rtol=1e-5)


def test_a_pair_mask_hides_what_is_not_seen():
    seen = torch.tensor([[[True, False], [True, True]]])
    assert pair_mask(seen, torch.float16).tolist() == [[[[0, -65504], [0, 0]]]]
    assert pair_mask(torch.tensor([[1, 0]]), torch.float32).shape == (1, 1, 1, 2)


def test_a_language_model_can_be_copied(of_grounding_dino):
    """As averaging of weights does."""
    twin = copy.deepcopy(of_grounding_dino)
    torch.testing.assert_close(twin(["cat. "])["embedded"], of_grounding_dino(["cat. "])["embedded"])


@pytest.mark.parametrize("name", ["/no/such/folder", "some-one/some-bert"])
def test_a_missing_language_model_names_the_local_way(name, monkeypatch):
    """GLIP's head asks for it first, by its own option."""
    from mmdet.models.dense_heads.atss_vlfusion_head import VLFusionModule

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for build in (
        lambda: language_model(name),
        lambda: VLFusionModule(in_channels=8, feat_channels=8, num_base_priors=1, lang_model_name=name),
    ):
        with pytest.raises(DataError, match=rf"'{name}'.*model.language_model.name, and of GLIP"):
            build()


def test_a_damaged_language_model_is_told_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match=r"model.language_model.name"):
        language_model(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
        ("config.json", {"attn_implementation": "somebody/kernels"}),
    ],
)
def test_a_language_model_that_brings_code_is_refused(small_bert, tmp_path, file, part):
    folder = shutil.copytree(small_bert, tmp_path / "bert")
    stated = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    (folder / file).write_text(json.dumps({**stated, **part}))
    with pytest.raises(DataError, match=file):
        language_model(str(folder))


def test_a_free_caption_without_nltk_names_the_other_way(monkeypatch):
    import sys

    from mmdet.models.detectors.glip import run_ner

    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(CapabilityError, match=r"'a cat'.*nltk.*custom_entities=True"):
        run_ner("a cat")
