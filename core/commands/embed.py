"""Features as a file: `embed`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..contracts.use import USE
from .options import Debug, FromRecipe, Given, Json
from .tables import echo, echo_skipped, print_json, reporter

ENCODED = "domain task data backbone device amp batch_size workers sets"
"""What says which images are encoded, and how."""


def embed(
    out: Annotated[str, typer.Option(help="File to write: .safetensors or .npz.")],
    given: Annotated[Given, FromRecipe(ENCODED, {"batch_size": USE["batch_size"].sentence})],
    images: Annotated[
        list[str] | None, typer.Argument(help="Image files or folders; by default the data set of --data.")
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="Also write the features of each frame, slice or window of a sample.")
    ] = False,
    patch_tokens: Annotated[
        bool, typer.Option("--patch-tokens", help="Also store the features of all patches, for methods that use them.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the features of a data set, or of single images, in the layout that --features reads.

    Example: vladapt embed --domain medical --data ./xrays --out xrays.safetensors
    """
    from ..engine.embed import embed as engine_embed

    recipe = given.recipe()
    written = engine_embed(
        recipe, out, images=images or (), parts=parts, patch_tokens=patch_tokens, reporter=reporter()
    )
    if as_json:
        told = {**vars(written), "skipped": [list(pair) for pair in written.skipped]}
        print_json({name: value for name, value in told.items() if patch_tokens or name != "patches_stored"})
        return
    echo_skipped(written.skipped)
    echo(
        f"{written.images} images, feature width {written.dim}: {written.file} ({written.encoded} encoded, "
        f"{written.from_store} from the store)"
    )
    if patch_tokens:
        echo(f"Patch tokens of all images are in the feature store ({written.patches_stored} encoded)")


COMMANDS = {"embed": embed}
