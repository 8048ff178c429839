"""X-CLIP: frames exchange messages inside the image tower, and class texts attend to the video.

Take it for clips with a GPU, on hundreds of clips per class or a published model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.backbones import JointParts
from ....core.contracts import Backbone, Batch, TrainingImages, has, option
from ....core.errors import CapabilityError
from ....core.training import TrainingTask, truncated_starts
from ..transforms import EachFrame, by_crop
from ._clip_towers import ClipTowerAdapter, FixedTexts, need_class_token
from ._mixing import WARMUP_SHARE, Mixing
from ._transformer import QuickGELU, ResidualBlock, heads_of

INIT_STD = 0.02
CLIPS_AT_ONCE = 8


class Messages(nn.Module):
    """Cross-frame communication before one block: a message per frame, made of its class token, which then attends to
    those of all frames. The block sees it as one more token, behind the patches."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.message_fc = nn.Linear(width, width)
        self.message_ln = nn.LayerNorm(width)
        self.message_attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, first: Tensor, frames: int) -> Tensor:
        """(B * T, W) class tokens -> (B * T, 1, W)."""
        sent = self.message_fc(first).unflatten(0, (-1, frames))  # (B, T, W)
        normal = self.message_ln(sent)
        sent = sent + self.message_attn(normal, normal, normal, need_weights=False)[0]
        return sent.flatten(0, 1)[:, None]


class MultiframeIntegration(nn.Module):
    """Blocks over the frames of a clip with learned positions, added to what went in, and the mean over frames."""

    def __init__(self, frames: int, width: int, layers: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(1, frames, width))
        self.resblocks = nn.ModuleList(ResidualBlock(width, heads_of(width, None), eps=1e-5) for _ in range(layers))
        nn.init.trunc_normal_(self.positional_embedding, std=INIT_STD)
        self.apply(truncated_starts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        mixed, there = x + self.positional_embedding, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for block in self.resblocks:
            mixed = block(mixed, there)
        return (mixed + x).mean(dim=1)


class CrossAttention(nn.Module):
    """Texts look at a video; queries, keys and values without biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, text: Tensor, video: Tensor) -> Tensor:
        """(B, C, D) and (B, P, D) -> (B, C, D)."""
        parts = ((self.q_proj, text), (self.k_proj, video), (self.v_proj, video))
        query, key, value = (linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for linear, x in parts)
        seen = F.scaled_dot_product_attention(query, key, value)  # (B, H, C, D / H)
        return self.proj(seen.transpose(1, 2).flatten(2))


class PromptLayer(nn.Module):
    """Cross-attention and an MLP, each added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.cross_attn = CrossAttention(width, heads)
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        layers = [("0", nn.Linear(width, 4 * width)), ("1", QuickGELU()), ("3", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, text: Tensor, video: Tensor) -> Tensor:
        text = text + self.cross_attn(self.norm1(text), video)
        return text + self.mlp(self.norm3(text))


class VideoPrompt(nn.Module):
    """What a video adds to the class texts: what texts make of its patches, times a learned factor per channel."""

    def __init__(self, width: int, layers: int, alpha: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(PromptLayer(width, heads_of(width, None)) for _ in range(layers))
        self.alpha = nn.Parameter(torch.full((width,), alpha))
        self.apply(truncated_starts)

    def forward(self, text: Tensor, video: Tensor) -> Tensor:
        """(B, C, D) texts and (B, P, D) patches -> (B, C, D)."""
        video = self.norm(video)
        for layer in self.decoder:
            text = layer(text, video)
        return self.alpha * text


class CommunicatingFrames(JointParts):
    """The image tower with messages between frames, the integration of its frames, and what class texts need of it.

    Args:
        backbone: whose image tower it hangs on.
        frames: T.
        mit_layers: blocks of the integration.
        prompt_layers: of the video-specific prompt; alpha: what its factors start from.
    """

    rate: ClassVar[float] = 10.0

    def __init__(self, backbone: Backbone, frames: int, mit_layers: int, prompt_layers: int, alpha: float):
        super().__init__(frames)
        need_class_token(backbone, "x-clip")
        blocks, width = backbone.blocks("image"), backbone.embed_dim
        inner = next(p.shape[0] for p in blocks[0].out.parameters() if p.ndim == 2)
        self.messages = nn.ModuleList(Messages(inner, block.num_heads) for block in blocks)
        self.mit = MultiframeIntegration(frames, width, mit_layers)
        self.prompts_generator = VideoPrompt(width, prompt_layers, alpha)
        self.prompts_visual_ln = nn.LayerNorm(inner)
        self.prompts_visual_proj = nn.Parameter(torch.randn(inner, width))

    def tokens(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B * T, P, W) of the last block, without the messages."""
        x = backbone.embed_image(pixels.flatten(0, 1))
        length = x.shape[1]

        def with_message(block: int, x: Tensor) -> Tensor:
            return torch.cat([x[:, :length], self.messages[block](x[:, 0], self.parts).to(x.dtype)], dim=1)

        return backbone.run_blocks("image", x, insert=with_message)[:, :length]

    def seen(self, backbone: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) -> (B, D) of each clip, and (B, P, D) its patches, averaged over frames."""
        tokens = self.tokens(backbone, pixels)
        frames = backbone.pool_image(tokens, normalize=False).unflatten(0, (-1, self.parts))  # (B, T, D)
        patches = self.prompts_visual_ln(tokens[:, backbone.image_prefix :]) @ self.prompts_visual_proj
        return self.mit(frames), patches.unflatten(0, (-1, self.parts)).mean(dim=1)

    def embed(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        return self.seen(backbone, pixels)[0]

    def cosines(self, backbone: Backbone, pixels: Tensor, text: Tensor) -> Tensor:
        """Clips (B, T, 3, H, W) and class texts (C, D) as the text tower gives them -> (B, C)."""
        clips, patches = self.seen(backbone, JointParts.chosen(pixels, self.parts, dim=1))
        text = text.expand(len(clips), -1, -1)
        text = text + self.prompts_generator(text, patches)  # (B, C, D)
        return torch.einsum("bd,bcd->bc", F.normalize(clips.float(), dim=-1), F.normalize(text.float(), dim=-1))


class TextsOfVideos(FixedTexts):
    """Logits by towers with `CommunicatingFrames`, of texts as the text tower gives them, not made unit."""

    def cosines(self, backbone: Backbone, clips: Tensor, text: Tensor) -> Tensor:
        return backbone.joint.cosines(backbone, clips, text)


@dataclass(eq=False, kw_only=True)
class XClip(ClipTowerAdapter):
    """Expanding Language-Image Pretrained Models for General Video Recognition (Ni et al., 2022, arXiv 2208.02816), the
    X-CLIP of action recognition; another method of that name is for retrieval.

    Before each block of the image tower every frame sends a message, a linear map of its class token; messages attend
    to those of all frames and stand as one more token in the block (cross-frame communication). The frames' features
    go through `mit_layers` blocks with learned positions, are added to what went in, and are averaged (multi-frame
    integration). Class texts attend to the clip's patches in `prompt_layers` layers, and what comes of it, times a
    learned factor per channel that starts at `alpha`, is added to them (video-specific prompts). The image tower is
    trained, and what is new at ten times its rate, by cross-entropy; the text tower and the logit scale stay as they
    are, so that class texts are encoded once.

    Published for few shots, and the defaults here: AdamW with a rate of 2e-6, weight decay 0.001, 50 epochs, 5 of
    warm-up, a cosine down to a hundredth, batches of 64 clips of 32 frames, label smoothing 0.1, and mixup or CutMix on
    each batch. For Kinetics: 8e-6, 30 epochs, batches of 256 clips of 8 or 16 frames. The domain sets the number of
    frames per clip (`--frames`).

    New parts start at random, as published: before the first step a clip's score is not that of frame averaging.

    Several labels per clip: binary cross-entropy on the difference to the negative prompts.

    Classes with unequal numbers of clips count alike (`class_weight`); published is "none".

    Raises:
        ConfigError: an option out of range.
        CapabilityError: the image tower has no transformer blocks; at prediction, a batch without decoded clips.

    Example:
        >>> adapter = build_adapter("x-clip", epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(images=images)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the domain's prompts, crops and colours instead of the published ones, which the recipes take; a class's text "
        "is the mean of its prompts; float32 unless `amp` says otherwise; position embeddings of frames have weight "
        "decay, as other tables have; the learning rate changes every step, as one cosine after the warm-up"
    )
    at_predict: ClassVar[frozenset[str]] = frozenset({"images", "text_encoder"})
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    trains_text: ClassVar[bool] = False
    trains_scale: ClassVar[bool] = False
    default_epochs: ClassVar[int] = 50

    mixing = has(Mixing)
    warmup: float = WARMUP_SHARE
    batch_size: int = 64
    lr: float = 2e-6
    weight_decay: float = 1e-3
    mit_layers: int = option(1, "blocks over the frames", low=1, high=48)
    prompt_layers: int = option(2, "layers in which class texts look at the clip", low=1, high=48)
    alpha: float = option(0.1, "initial factors of what class texts take from the clip", low=0, high=100)

    def _joint(self, backbone: Backbone) -> CommunicatingFrames:
        return CommunicatingFrames(backbone, self.frames, self.mit_layers, self.prompt_layers, self.alpha)

    def _completed(self, task: TrainingTask, base: Backbone, images: TrainingImages | None) -> TrainingTask:
        task = super()._completed(task, base, images)
        return replace(task, class_scores=self._scores(base, task.class_prompts, task.negative_prompts))

    def _scores(self, towers: Backbone, prompts, negative) -> TextsOfVideos:
        absent = None if negative is None else raw_classes(towers, negative)
        return TextsOfVideos(raw_classes(towers, prompts), absent).to(towers.device)

    def _name_classes(self, towers: Backbone, prompts: Sequence[Sequence[str]], negative) -> None:
        self.weights = raw_classes(towers, prompts)
        self.negative = None if negative is None else raw_classes(towers, negative)
        self._note_scale(towers)

    def for_classes(self, backbone: Backbone, class_names: Sequence[str], classifier=None) -> XClip:
        return super().for_classes(backbone, class_names, classifier).attach(backbone)

    def fit_pairs(self, source, backbone: Backbone, **how: Any):
        raise CapabilityError(f"adapter '{self.name}' learns from labelled clips, not from pairs; give stan or full")

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        if batch.images is None:
            raise CapabilityError(f"adapter '{self.name}' looks at whole clips; pass decoded ones as Batch(images=...)")
        towers = self.adapted(self.towers)
        transform = batch.transform or EachFrame(towers.preprocess(False))
        scores = TextsOfVideos(self.weights, self.negative).to(towers.device)
        clips = [JointParts.chosen(by_crop(transform(image), transform), self.frames, dim=1) for image in batch.images]
        rows = torch.cat([scores(towers, some.to(towers.device)) for some in torch.cat(clips).split(CLIPS_AT_ONCE)])
        return torch.stack([crops.mean(dim=0) for crops in rows.split([len(crops) for crops in clips])])


@torch.no_grad()
def raw_classes(towers: Backbone, prompts: Sequence[Sequence[str]]) -> Tensor:
    """(C, D), the mean of what the text tower makes of each class's texts."""
    return towers.text_means(prompts, normalize=False)
