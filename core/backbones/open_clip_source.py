"""What an open_clip spec names: an architecture, a file of weights, how its pixels are made. Builds no model."""

from __future__ import annotations

import difflib
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts.images import ImageSize, as_image_size
from ..errors import ConfigError, DataError, UnknownNameError, alternatives, did_you_mean
from ..runtime.reading import read_json
from .checkpoints import file_digests, random_seed, require_file
from .hub import ModelFolder, hub_file
from .open_clip_folder import hub_checkpoint, published_folder, text_model_folder
from .openai_weights import is_released, needs_quick_gelu
from .preprocessing import Preprocess
from .specs import clip_folder

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
FORM = (
    "open_clip:<arch>/<tag>, open_clip:hf-hub:<owner>/<name>, open_clip:<folder> "
    "or open_clip:<arch or config.json>@<checkpoint, or random>"
)
MODEL_KEYS = (
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "multimodal_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
)
TOKENIZER_OPTIONS = ("clean", "strip_sep_token", "language", "reduction_mask", "additional_special_tokens")
"""What a configuration may say to a tokenizer. Others reach the library that loads it: `trust_remote_code` among them
would run code that lies beside the tokenizer."""
NAMES = ("hf_model_name", "hf_tokenizer_name", "hf_pooler_type", "hf_proj_type", "tokenizer_mode")
# Licences of released weights, by the start of the tag, where the release states one.
LICENCES = {
    "openai": "MIT",
    "laion": "MIT",
    "datacomp": "MIT",
    "commonpool": "MIT",
    "webli": "Apache-2.0",
    "metaclip": "CC-BY-NC-4.0",
    "dfn": "apple-amlr",
    "datacompdr": "apple-amlr",
    "merged2b": "MIT",
}


@dataclass(frozen=True)
class OpenClipSource:
    """Everything about the model that is known before it is built.

    Args:
        name: the architecture's name, or the configuration's file.
        config: open_clip's model configuration, with the image size in force.
        weights: the checkpoint; None for random weights.
        identity: what tells these weights from others: the file's digest, or the registry's entry.
        transform: how pixels are made.
        resized: whether positions are to be resampled, the image size being another than that of the weights.
        restrided: whether they are, since the last stride is another than that of the weights.
        trained_size: of the images of the weights.
        folder: of the configuration file, where a tokenizer may lie beside it.
        licence: of the weights, where known.
        seed: of random weights.
        text_model: of a text tower that transformers builds: the folder with its config.json.
        notes: sentences a user should read.
    """

    name: str
    config: dict[str, Any]
    weights: Path | None
    identity: Any
    transform: Preprocess
    resized: bool = False
    restrided: bool = False
    trained_size: ImageSize = 224
    folder: Path | None = None
    licence: str = "unknown"
    seed: int = 0
    text_model: Path | None = None
    notes: tuple[str, ...] = ()


def find_open_clip(rest: str, image_size: ImageSize | None) -> OpenClipSource:
    """What `open_clip:<rest>` names.

    Raises:
        ConfigError: the spec has another form.
        UnknownNameError: no such architecture or tag.
        DataError: a file is missing or no configuration; a tag's weights are not cached and cannot be downloaded.
    """
    spec = f"open_clip:{rest}"
    published = published_folder(rest)
    if published is not None:
        source = _published_source(*published)
    else:
        source = _local_source(rest) if "@" in rest else _tagged_source(rest)
    return _sized(_with_text_model(source, spec), image_size)


def described_source(description: dict[str, Any], weights: Path, image_size: ImageSize | None) -> OpenClipSource:
    """What a file of weights that were trained here says of itself.

    Raises:
        DataError: its configuration is none, or asks for what could run code.
    """
    check_config(description["config"], str(weights))
    transform = Preprocess(**description["pixels"])
    folder = weights.parent
    source = OpenClipSource(
        description["name"], description["config"], weights, file_digests([weights]), transform, folder=folder
    )
    return _sized(_with_text_model(source, str(weights)), image_size)


def _published_source(config_file: Path, weights: Path) -> OpenClipSource:
    """A model whose configuration and weights lie together."""
    config, overrides = _read_config(config_file)
    folder = config_file.parent
    digests = file_digests([weights])
    licence = ModelFolder(folder).licence
    return OpenClipSource(
        str(config_file), config, weights, digests, _transform(overrides), folder=folder, licence=licence
    )


def _with_text_model(source: OpenClipSource, spec: str) -> OpenClipSource:
    name = (source.config.get("text_cfg") or {}).get("hf_model_name")
    return replace(source, text_model=text_model_folder(name, source.folder, spec)) if name else source


def _sized(source: OpenClipSource, image_size: ImageSize | None) -> OpenClipSource:
    """The source with the image size in force."""
    trained_size = as_image_size(source.config["vision_cfg"].get("image_size", 224))
    size = image_size or trained_size
    config = deepcopy(source.config)
    config["vision_cfg"]["image_size"] = size
    transform = replace(source.transform, image_size=size)
    return replace(source, config=config, transform=transform, resized=size != trained_size, trained_size=trained_size)


def _local_source(rest: str) -> OpenClipSource:
    name, checkpoint = _split_local(rest)
    if name.endswith(".json"):
        config, overrides = _read_config(Path(name))
        folder = Path(name).parent
    else:
        name = known_architecture(name)
        config, overrides, folder = _registered_config(name), _usual_preprocessing(name), None
    if (seed := random_seed(checkpoint)) is not None:
        identity = f"random weights, seed {seed}"
        return OpenClipSource(
            name, config, None, identity, _transform(overrides), folder=folder, licence="none", seed=seed
        )
    published = hub_checkpoint(checkpoint)
    weights = published or Path(checkpoint).expanduser()
    require_file(weights, "checkpoint file (.safetensors, or .pt of tensors only)")
    digests = file_digests([weights])
    notes: tuple[str, ...] = ()
    if "quick_gelu" not in config:
        if needs_quick_gelu(weights, digests[0]):
            config["quick_gelu"] = True
        elif published is None:
            notes = _quick_gelu_note(name, checkpoint)
    return OpenClipSource(name, config, weights, digests, _transform(overrides), folder=folder, notes=notes)


def _quick_gelu_note(name: str, checkpoint: str) -> tuple[str, ...]:
    """What to say of a file of unknown origin, where the architecture has released weights of both activations."""
    import open_clip

    if f"{name}-quickgelu" not in open_clip.list_models():
        return ()
    return (
        f"{checkpoint} runs with GELU; if its weights come from OpenAI, DFN or MetaCLIP they need QuickGELU: "
        f"give open_clip:{name}-quickgelu@{checkpoint}",
    )


def _split_local(rest: str) -> tuple[str, str]:
    """At the "@" after the configuration; paths may hold others."""
    name, _, checkpoint = rest.partition("@")
    if ".json@" in rest:
        head, _, checkpoint = rest.partition(".json@")
        name = f"{head}.json"
    if not name or not checkpoint:
        raise ConfigError(f"backbone 'open_clip:{rest}' does not have the form {FORM}")
    return name, checkpoint


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and preprocessing part of open_clip's JSON, in either of its two layouts."""
    require_file(path.expanduser(), "configuration file (open_clip's JSON)")
    read = read_json(path.expanduser(), "give an open_clip configuration")
    model = read.get("model_cfg", read) if isinstance(read, dict) else {}
    if not all(isinstance(model.get(key), kind) for key, kind in (("embed_dim", int), ("vision_cfg", dict))):
        raise DataError(f"{path}: not an open_clip configuration; give one with embed_dim, vision_cfg and text_cfg")
    check_config(model, str(path))
    return {key: model[key] for key in MODEL_KEYS if key in model}, read.get("preprocess_cfg") or {}


def check_config(config: Any, where: str) -> None:
    """Refuse a configuration that would have more read or run than the towers it describes.

    Args:
        where: the file, for the message.

    Raises:
        DataError: one line with the key.
    """
    if not isinstance(config, dict) or not isinstance(config.get("vision_cfg"), dict):
        raise DataError(f"{where}: holds no configuration of towers (vision_cfg); copy it again")
    text, vision = config.get("text_cfg") or {}, config["vision_cfg"]
    size = as_image_size(vision.get("image_size", 224))
    if not all(type(side) is int and side > 0 for side in (size if isinstance(size, tuple) else (size,))):
        raise DataError(f"{where}: image_size of vision_cfg is {size!r:.80}; give a side, or [height, width]")
    options = text.get("tokenizer_kwargs") or {} if isinstance(text, dict) else None
    if not isinstance(options, dict):
        raise DataError(f"{where}: text_cfg is damaged; copy it again")
    if refused := sorted(set(options) - set(TOKENIZER_OPTIONS)):
        raise DataError(
            f"{where}: text_cfg.tokenizer_kwargs.{refused[0]} is refused, a configuration may give a tokenizer only "
            f"{', '.join(TOKENIZER_OPTIONS)}; remove it"
        )
    for name in NAMES:
        if not isinstance(text.get(name), (str, type(None))):
            raise DataError(f"{where}: text_cfg.{name} is not a name; copy it again")
    timm = vision.get("timm_model_name")
    if timm is not None and (not isinstance(timm, str) or ":" in timm):
        raise DataError(
            f"{where}: vision_cfg.timm_model_name is not an architecture of timm; name one of timm.list_models()"
        )


def _tagged_source(rest: str) -> OpenClipSource:
    import open_clip

    name, _, tag = rest.rpartition("/")
    if not name:
        tags = open_clip.list_pretrained_tags_by_model(known_architecture(tag))
        some = ", ".join(tags[:4]) + (", ..." if len(tags) > 4 else "")
        raise ConfigError(
            f"backbone 'open_clip:{rest}' has no weights; give open_clip:{tag}/<tag> ({some or 'there is none'}) or "
            f"open_clip:{tag}@<checkpoint>"
        )
    name = known_architecture(name)
    entry = open_clip.get_pretrained_cfg(name, tag)
    if not entry:
        known = open_clip.list_pretrained_tags_by_model(name)
        raise UnknownNameError(f"open_clip has no weights '{tag}' for {name}; {did_you_mean(tag, known)}")
    config = _registered_config(name)
    # The activation belongs to the weights: ViT-B-32 by OpenAI is a quick-GELU model whatever its configuration says.
    config["quick_gelu"] = bool(entry.get("quick_gelu", config.get("quick_gelu", False)))
    plain = config["quick_gelu"] and not _registered_config(name).get("quick_gelu")
    weights = _tagged_weights(f"{name}-quickgelu" if plain else name, tag, entry)
    licence = next((value for start, value in LICENCES.items() if tag.lower().startswith(start)), "unknown")
    return OpenClipSource(name, config, weights, dict(entry), _transform(entry), licence=licence)


def _tagged_weights(name: str, tag: str, entry: dict[str, Any]) -> Path:
    """From the hub's cache, from open_clip's own cache, else from the hub."""
    local_way = f"give a checkpoint you have: open_clip:{name}@<checkpoint>"
    downloaded = clip_folder() / Path(entry.get("url") or "none").name
    if downloaded.is_file() and is_released(file_digests([downloaded])[0], entry["url"]):
        return downloaded
    if not entry.get("hf_hub"):
        raise DataError(f"open_clip's weights '{tag}' for {name} are not on the hub; {local_way}")
    repo, _, filename = entry["hf_hub"].rpartition("/")
    filename = filename or "open_clip_pytorch_model.bin"
    safe = ["open_clip_model.safetensors"] if filename == "open_clip_pytorch_model.bin" else []
    safe += [str(Path(filename).with_suffix(".safetensors"))] if not filename.endswith(".safetensors") else []
    return hub_file(repo, [*safe, filename], local_way)


def known_architecture(name: str) -> str:
    """open_clip's own spelling of an architecture ("ViT-B/32" is "ViT-B-32").

    Raises:
        UnknownNameError: there is none of that name.
    """
    import open_clip

    names = {arch.lower(): arch for arch in open_clip.list_models()}
    plain = name.replace("/", "-").lower()
    if plain in names:
        return names[plain]
    near = [names[arch] for arch in difflib.get_close_matches(plain, names, n=3, cutoff=0.5)]
    hint = f"did you mean {alternatives(near)}?" if near else f"open_clip.list_models() has all; the form is {FORM}"
    raise UnknownNameError(f"unknown open_clip architecture '{name}'; {hint}")


def _registered_config(name: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(name)
    return {key: config[key] for key in MODEL_KEYS if key in config}


def _usual_preprocessing(name: str) -> dict[str, Any]:
    """What all released weights of an architecture agree on; nothing where they do not."""
    import open_clip

    entries = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    agreed = {}
    for key in ("mean", "std", "interpolation", "resize_mode"):
        values = {entry.get(key) for entry in entries}
        if len(values) == 1:
            agreed[key] = values.pop()
    return agreed


def _transform(overrides: dict[str, Any]) -> Preprocess:
    interpolation = overrides.get("interpolation") or "bicubic"
    return Preprocess(
        image_size=224,
        mean=_triple(overrides.get("mean") or OPENAI_MEAN),
        std=_triple(overrides.get("std") or OPENAI_STD),
        interpolation="bicubic" if interpolation == "random" else interpolation,
        mode=overrides.get("resize_mode") or "shortest",
    )


def _triple(value) -> tuple[float, float, float]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
