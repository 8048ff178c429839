"""A random BERT in a local folder: what GLIP and Grounding DINO are built on without a download."""

import string

import pytest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", ",", "red", "blue", "circle", "square", "cat", "dog"]
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory):
    """make_bert(hidden_size=...) -> the folder."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("mmdet")
    import torch

    def make(hidden_size: int) -> str:
        folder = tmp_path_factory.mktemp(f"bert-{hidden_size}")
        (folder / "vocab.txt").write_text("\n".join([*WORDS, *LETTERS]))
        config = transformers.BertConfig(
            vocab_size=len(WORDS) + len(LETTERS),
            hidden_size=hidden_size,
            num_hidden_layers=2 if hidden_size < 100 else 1,
            num_attention_heads=2,
            intermediate_size=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformers.BertModel(config).save_pretrained(folder)
        transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def small_bert(make_bert) -> str:
    return make_bert(32)


@pytest.fixture(scope="session")
def wide_bert(make_bert) -> str:
    """GLIP's fusion blocks are built for 768 features."""
    return make_bert(768)
