"""The configs of folders, tried one after the other, each in a process of its own."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.config import Config
from safetensors.torch import save_file

from .choice import by_size
from .limited import Limits, run_limited
from .outcomes import FAILS, NOTHING, Outcome, in_few_words, outcome_of
from .trial import try_config

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", ",")


def tried(folders: Sequence[str], limits: Limits) -> Iterator[Outcome]:
    """Yields what became of each folder.

    Args:
        folders: of `choice.folders()`.
        limits: of each config.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others do not survive in the copies of this process
    try:
        with TemporaryDirectory() as folder:
            for name in folders:
                yield _outcome(name, Path(folder), limits)
    finally:
        torch.set_num_threads(threads)


def _outcome(folder: str, language_model: Path, limits: Limits) -> Outcome:
    for file in by_size(folder):
        try:
            model = Config.fromfile(file, import_custom_modules=False).get("model")
        except Exception as error:  # whatever the code of a config raises
            return Outcome(folder, file.name, FAILS, in_few_words(f"{type(error).__name__}: {error}"))
        if model is None:
            continue
        if "language_model" in model and not any(language_model.iterdir()):
            _make_language_model(language_model)
        return outcome_of(folder, file.name, run_limited(try_config, file, str(language_model), limits=limits))
    return Outcome(folder, "", NOTHING)


def _make_language_model(folder: Path) -> None:
    """Write a small random BERT that reads any word of lower-case letters; 768 features, as GLIP's fusion wants."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    words = [*SPECIAL, *letters]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), **sizes)
    config.save_pretrained(folder)
    save_file(BertModel(config).state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
