"""BLIP as transformers has it, tiny and with random weights."""

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
WORDS = [*SPECIAL, "a", "b", "c", "d", "e", "f", "g", "h", "photo", "of", "dog", "cat"]


def write_blip(folder, kind, seed=0):
    """A folder with a model, its tokenizer and its image processor.

    Args:
        kind: name of the class, such as "BlipForConditionalGeneration".
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 5, "eos_token_id": 3}
    text |= {"pad_token_id": 0, "sep_token_id": 3, "max_position_embeddings": 64}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    model = getattr(transformers, kind)(transformers.BlipConfig(text_config=text, vision_config=vision))
    for parameter in model.parameters():  # so that another image gives another answer
        if parameter.ndim > 1:
            parameter.data.normal_(0, 1)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), bos_token="[DEC]", eos_token="[SEP]")
    images = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder
