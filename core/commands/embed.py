"""Features as a file: `embed`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..contracts.use import USE
from ..engine.options import PARQUET, EmbedOptions
from ..errors import ConfigError
from .options import FromOptions, FromRecipe, Given, Json
from .slurm import SlurmArray
from .tables import echo, echo_shards, echo_skipped, print_json, reporter, words_of

ENCODED = "domain task data backbone device amp batch_size workers tolerate sets"
"""What says which images are encoded, and how."""


def embed(
    out: Annotated[
        str, typer.Option(metavar="FILE|DIR", help="File to write: .safetensors or .npz. With --as, a folder.")
    ],
    given: Annotated[Given, FromRecipe(ENCODED, {name: USE[name].sentence for name in ("batch_size", "tolerate")})],
    how: Annotated[dict[str, Any], FromOptions(EmbedOptions)],
    slurm: Annotated[list[str] | None, SlurmArray()],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files or folders; with --as parquet also tars, Parquet files and URLs. By default the set "
            "of --data."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the features of a data set, or of single images, in the layout that --features reads.

    With --as parquet it writes shards, for sets of any size: the same command continues where it was stopped.

    Example: vladapt embed --domain medical --data ./xrays --out xrays.safetensors
    """
    if slurm:
        if how.get("as_") != PARQUET:
            raise ConfigError("--slurm: is for shards; give --as parquet too, and a folder as --out")
        return print_json({"slurm": slurm}) if as_json else echo("\n".join(slurm))
    from ..engine.embed import EmbeddedShards
    from ..engine.embed import embed as engine_embed
    from ..runs.sections import worded

    recipe = given.recipe()
    words = words_of(recipe)
    written = engine_embed(recipe, out, images=images or (), reporter=reporter(words), **how)
    patch_tokens = how.get("patch_tokens")
    if as_json:
        print_json({name: value for name, value in vars(written).items() if patch_tokens or name != "patches_stored"})
        return
    if isinstance(written, EmbeddedShards):
        echo_shards(written, words, f", width {written.dim}")
        return
    echo_skipped(written.skipped)
    lines = [
        f"{written.images} images, feature width {written.dim}: {written.file} ({written.encoded} encoded, "
        f"{written.from_store} from the store)"
    ]
    if patch_tokens:
        lines.append(f"Patch tokens of all images are in the feature store ({written.patches_stored} encoded)")
    for line in lines:
        echo(worded(line, words))


COMMANDS = {"embed": embed}
