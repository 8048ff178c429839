"""How far work on shards is: `jobs`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Json
from .tables import echo, print_json


def jobs(
    place: Annotated[str, typer.Argument(metavar="DIR", help="The folder or URL that --out named.")],
    as_json: Json = False,
) -> None:
    """Show how far the shards in a folder are: how many are done, at which rate, and which were set aside.

    It reads files alone, so it works on any machine that sees the folder, while a job runs or later.

    Example: vladapt jobs s3://bucket/features
    """
    from ..shards import ShardPlace, jobs_below

    below = jobs_below(ShardPlace(place))
    if as_json:
        print_json({"jobs": [{**vars(job), "seconds_left": job.seconds_left} for job in below]})
        return
    for job in below:
        echo(job.line)
        for name, reason in job.aside.items():
            echo(f"  {name}: {reason}")


COMMANDS = {"jobs": jobs}
