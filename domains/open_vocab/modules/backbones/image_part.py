"""The image tower of a backbone as a module that a model holds, trains and saves; its text tower stays outside."""

from __future__ import annotations

from torch import Tensor, nn

from .....core.backbones.load import load_backbone
from .....core.backbones.tower_names import tower_of
from .....core.contracts.backbone import Backbone

NEEDED_TO_PROJECT = "alignment"  # of the embedded backbone: shared by both towers, never trained
NORMS = (nn.BatchNorm2d,)


class ImagePart(nn.Module):
    """What of a backbone sees images.

    Args:
        spec: of the backbone; an instance of its own is built, so that training it changes no other.
        trainable: whether its parameters are trained.
        norm_eval: keep batch norms at the statistics they came with, in training too.

    Attributes:
        backbone: the backbone over these modules; its device follows `.to()`.
    """

    def __init__(self, spec: str, trainable: bool = True, norm_eval: bool = True):
        super().__init__()
        backbone = load_backbone(spec, device="cpu")
        self._held = (backbone,)  # no child: its text tower is neither saved nor moved with this module
        self.norm_eval = norm_eval
        children = dict(backbone.model.named_children())
        seen = [name for name in children if tower_of(backbone, name) == "image" or name == NEEDED_TO_PROJECT]
        self.tower = nn.ModuleDict({name: children[name] for name in seen})
        for name, child in self.tower.items():
            child.requires_grad_(trainable and name != NEEDED_TO_PROJECT)

    @property
    def backbone(self) -> Backbone:
        return self._held[0]

    @property
    def trained(self) -> bool:
        """Whether any parameter of the tower is trained."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) unit features."""
        return self.backbone.encode_image(pixels)

    def train(self, mode: bool = True) -> ImagePart:
        super().train(mode and self.trained)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, NORMS):
                    module.eval()
        return self

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.backbone.device = next(self.parameters()).device
        return self
