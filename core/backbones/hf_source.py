"""What an `hf:` spec names: a folder with a configuration, weights and, for texts, a tokenizer. Builds no model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts.images import ImageSize, height_and_width
from ..errors import ConfigError, DataError
from .checkpoints import file_digests
from .hub import REPOSITORY, ModelFolder, read_object
from .open_clip_source import OPENAI_MEAN, OPENAI_STD
from .preprocessing import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The usual preprocessing of a kind, for folders that do not say theirs: mean, std, interpolation, mode.
KINDS = {
    "clip": (OPENAI_MEAN, OPENAI_STD, "bicubic", "shortest"),
    "metaclip_2": (OPENAI_MEAN, OPENAI_STD, "bicubic", "shortest"),
    "altclip": (OPENAI_MEAN, OPENAI_STD, "bicubic", "shortest"),
    "chinese_clip": (OPENAI_MEAN, OPENAI_STD, "bicubic", "squash"),
    "siglip": (HALF, HALF, "bicubic", "squash"),
    "siglip2": (HALF, HALF, "bilinear", "squash"),
    "align": (HALF, HALF, "bilinear", "squash"),
    "owlvit": (OPENAI_MEAN, OPENAI_STD, "bicubic", "squash"),
    "owlv2": (OPENAI_MEAN, OPENAI_STD, "bilinear", "squash"),
    "dinov2": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "shortest"),
    "dinov2_with_registers": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "shortest"),
    "dinov3_vit": (IMAGENET_MEAN, IMAGENET_STD, "bilinear", "squash"),
    "dinov3_convnext": (IMAGENET_MEAN, IMAGENET_STD, "bilinear", "squash"),
    "vit": (HALF, HALF, "bilinear", "squash"),
    "deit": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "squash"),
    "clip_vision_model": (OPENAI_MEAN, OPENAI_STD, "bicubic", "shortest"),
    "siglip_vision_model": (HALF, HALF, "bicubic", "squash"),
    "convnext": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "shortest"),
    "convnextv2": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "shortest"),
    "resnet": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "shortest"),
    "swin": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "squash"),
    "swinv2": (IMAGENET_MEAN, IMAGENET_STD, "bicubic", "squash"),
}
RESAMPLING = frozenset({"dinov2", "dinov2_with_registers", "dinov3_vit"})
"""Kinds without a text tower that fit their positions to the size of the images by themselves."""
IMAGE_ONLY = RESAMPLING | {
    *("dinov3_convnext", "vit", "deit", "clip_vision_model", "siglip_vision_model"),
    *("convnext", "convnextv2", "resnet", "swin", "swinv2"),
}
"""Kinds without a text tower."""
SIDE = 224
"""Of images, where neither preprocessing nor configuration says it."""
WARPED_FROM = 384
"""The side from which images are squashed where `crop_pct` says how much of smaller ones is cropped, as transformers
does."""
# Where a text tower has more positions than it was trained with.
TRAINED_CONTEXT = {"chinese_clip": 52, "align": 64, "altclip": 77}
PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
LOCAL_WAY = "give a folder with the same files: hf:<folder>"


@dataclass(frozen=True)
class HfSource:
    """Everything about the model that is known before it is built.

    Args:
        folder: with config.json and the weights.
        kind: transformers' model type.
        config: transformers' configuration object.
        stated: config.json as it is written, less what does not change a result.
        digests: of the files of weights and of the tokenizer.
        transform: how pixels are made.
        native_size: of the images the weights were made for.
        licence: of the weights, where the folder says it.
    """

    folder: Path
    kind: str
    config: Any
    stated: dict[str, Any]
    digests: list[str]
    transform: Preprocess
    native_size: int
    licence: str

    @property
    def has_text(self) -> bool:
        return self.kind not in IMAGE_ONLY

    @property
    def embed_dim(self) -> int:
        if not self.has_text:
            sizes = getattr(self.config, "hidden_sizes", None)  # of stages
            return sizes[-1] if sizes else self.config.hidden_size
        if self.kind.startswith("siglip"):
            return self.config.text_config.projection_size or self.config.text_config.hidden_size
        return self.config.projection_dim

    @property
    def trained_size(self) -> ImageSize:
        """Of the images that positions were learned for; of kinds that resample them by themselves, of those in use."""
        if self.has_text:
            return self.native_size
        return self.transform.image_size if self.kind in RESAMPLING else self.config.image_size

    @property
    def context_length(self) -> int:
        if not self.has_text:
            return 0
        text = self.config.text_config
        positions = text.max_position_embeddings
        if self.kind == "altclip":
            positions -= text.pad_token_id + 1  # RoBERTa counts positions from after the padding's
        return min(positions, TRAINED_CONTEXT.get(self.kind, positions))


def find_source(rest: str, image_size: ImageSize | None) -> HfSource:
    """What `hf:<rest>` names.

    Raises:
        ConfigError: the spec is empty.
        DataError: no such folder, a file is missing or damaged, the model is of another kind, or it is on the hub and
            neither cached nor to be fetched.
    """
    folder = hf_folder(rest)
    stated = ModelFolder(folder).config()
    kind = stated.get("model_type", "")
    if kind not in KINDS:
        raise DataError(f"{folder}: config.json names a model of type '{kind}'; backbones of hf are {', '.join(KINDS)}")
    config = _config(folder)
    native = _native_size(config, kind, folder)
    weights = weight_files(folder)
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return HfSource(
        folder=folder,
        kind=kind,
        config=config,
        stated=stated_facts(stated),
        digests=file_digests(weights + tokenizer),
        transform=_transform(folder, kind, image_size or native),
        native_size=native,
        licence=ModelFolder(folder).licence,
    )


def hf_folder(rest: str, subfolders: Sequence[str] = ()) -> Path:
    """The folder of `hf:<rest>`: that one, or a repository's of the hub.

    Args:
        subfolders: patterns of files of a repository that are needed too ("*_Pooling/config.json").

    Raises:
        ConfigError, DataError: as `find_source`.
    """
    if not rest:
        raise ConfigError("backbone 'hf:' names no model; give hf:<repo id or folder>")
    path = Path(rest).expanduser()
    if path.is_dir():
        return path
    if rest.count("/") != 1 or rest.startswith((".", "/", "~")) or not REPOSITORY.fullmatch(rest):
        problem = "is a file" if path.exists() else "no such folder, and no repository of the hub (owner/name)"
        raise DataError(f"{rest}: {problem}; {LOCAL_WAY}")
    return ModelFolder.of_hub(rest, LOCAL_WAY, subfolders=subfolders).path


def _config(folder: Path):
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers validates with exceptions of many kinds
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder / 'config.json'}: not usable ({reason}); copy or download it again") from error


def _native_size(config, kind: str, folder: Path) -> int:
    if kind in IMAGE_ONLY:  # they are used at the size of their preprocessing, not at that of their positions
        stated = _stated_preprocessing(folder)
        crop = _side(stated.get("crop_size")) if stated.get("do_center_crop", True) else None
        return crop or _side(stated.get("size")) or _side(getattr(config, "image_size", None)) or SIDE
    vision = config.vision_config
    if kind == "siglip2":
        return round(vision.num_patches**0.5) * vision.patch_size
    size = vision.image_size
    return size if isinstance(size, int) else size[0]


def weight_files(folder: Path) -> list[Path]:
    """One file or all shards: safetensors where there are any."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        files = sorted(folder.glob(pattern))
        if files:
            return files
    raise DataError(f"{folder}: has no weights; give a folder with model.safetensors (or pytorch_model.bin of tensors)")


def stated_facts(stated: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what changes no result."""
    left_out = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
    return {
        key: stated_facts(value) if isinstance(value, dict) else value
        for key, value in stated.items()
        if key not in left_out
    }


def _transform(folder: Path, kind: str, size: ImageSize) -> Preprocess:
    mean, std, interpolation, mode = KINDS[kind]
    stated = _stated_preprocessing(folder)
    if stated:
        interpolation = PILLOW_FILTERS.get(stated.get("resample"), interpolation)
        mean, std = _scaled(stated, mean, std)
        mode = _mode(stated, mode)
    return Preprocess(
        image_size=size, mean=mean, std=std, interpolation=interpolation, mode=mode, resize=_before_crop(stated, size)
    )


def _before_crop(stated: dict[str, Any], size: ImageSize) -> int | None:
    """What the shortest side is resized to, where the crop is smaller: in proportion, for another size than stated."""
    side = min(height_and_width(size))
    if share := stated.get("crop_pct"):
        return int(side / share) if side < WARPED_FROM and share < 1 else None
    before, crop = stated.get("size"), _side(stated.get("crop_size"))
    before = _side(before) if isinstance(before, dict) else None
    if not stated.get("do_center_crop") or not before or not crop or before <= crop:
        return None
    return round(before * side / crop)


def _side(size: Any) -> int | None:
    """Of a square, as transformers writes one: a number, two, or "height" and "width"; None for what is none."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return size[0] if isinstance(size, (list, tuple)) and size else size


def _stated_preprocessing(folder: Path) -> dict[str, Any]:
    if (folder / "preprocessor_config.json").is_file():
        return read_object(folder / "preprocessor_config.json", "preprocessing")
    if (folder / "processor_config.json").is_file():
        return read_object(folder / "processor_config.json", "preprocessing").get("image_processor") or {}
    return {}


def _scaled(stated: dict[str, Any], mean, std):
    """transformers' rescale, offset and normalise as one mean and one std of values in 0..1."""
    normalise = stated.get("do_normalize", True)
    mean = stated.get("image_mean") or mean if normalise else (0.0, 0.0, 0.0)
    std = stated.get("image_std") or std if normalise else (1.0, 1.0, 1.0)
    gain = 255 * stated.get("rescale_factor", 1 / 255)
    offset = 1.0 if stated.get("rescale_offset") else 0.0
    return tuple((offset + value) / gain for value in mean), tuple(value / gain for value in std)


def _mode(stated: dict[str, Any], mode: str) -> str:
    size = stated.get("size")
    if stated.get("crop_pct") and (_side(size) or 0) >= WARPED_FROM:
        return "squash"
    if isinstance(size, dict):
        return "shortest" if "shortest_edge" in size else "squash" if "height" in size else mode
    return "shortest" if isinstance(size, int) and stated.get("do_center_crop") else mode


def hf_tokenizer(folder: Path, context_length: int) -> HfTokenizer:
    """The tokenizer of a folder.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(
            f"{folder}: has no tokenizer, so it can encode images but not texts; put the model's tokenizer.json "
            "(or vocab files) there"
        )
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a bad file
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: its tokenizer cannot be read ({reason}); copy or download it again") from error
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return HfTokenizer(tokenizer, context_length)


class HfTokenizer:
    """Texts -> (N, context_length) int64, padded and cut."""

    def __init__(self, tokenizer: Any, context_length: int):
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: list[str]) -> Tensor:
        return self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.context_length, return_tensors="pt"
        )["input_ids"]


@contextmanager
def quiet():
    """transformers' warnings and progress bars would break the one clear line."""
    import transformers

    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
