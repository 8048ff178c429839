"""Which tower a parameter belongs to, told by where it hangs on the model."""

from __future__ import annotations

from ..contracts.backbone import Backbone
from ..contracts.errors import UnknownNameError

# Children of the models of open_clip, transformers and the embedded backbone. Whatever else hangs there (logit scale,
# logit bias, temperature, alignment, a decoder that sees both) is shared. Prompts hang under "prompts.image" and
# "prompts.text".
ROOTS = {
    "image": frozenset({"visual", "vision_model", "visual_projection", "image"}),
    "text": frozenset(
        {"text", "text_model", "text_projection", "transformer", "token_embedding", "positional_embedding", "ln_final"}
    ),
}


def tower_of(backbone: Backbone, name: str) -> str:
    """ "image", "text" or "shared".

    Args:
        name: of a parameter or module of `backbone.model`, qualified.

    Raises:
        UnknownNameError: nothing on the model has that name.
    """
    found = backbone.model
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UnknownNameError(f"backbone '{backbone.spec}' has no parameter '{name}'; see model.named_parameters()")
    root = name.removeprefix("prompts.").partition(".")[0]
    return next((tower for tower, roots in ROOTS.items() if root in roots), "shared")
