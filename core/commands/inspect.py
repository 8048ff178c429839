"""What there is, and what is fetched: `list`, `show`, `doctor`, `setup`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, FromDoctors, Given, Json, Sets
from .tables import echo, print_json, published_backbone_lines, reporter, show_table


def list_names(
    what: Annotated[
        str,
        typer.Argument(
            help="domains, adapters, selectors, curators, compositions, benchmarks, tasks, backbones, losses, metrics, "
            "judgements, outputs, recipes or curations."
        ),
    ],
    domain: Annotated[
        str | None, typer.Option(metavar="NAME", help="For backbones: only those made for this domain.")
    ] = None,
    can: Annotated[
        str | None, typer.Option(metavar="NAME", help="For backbones: only those with this capability, such as prompt.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what there is of a kind, for instance methods (adapters), models (backbones) or recipes.

    For backbones: the published models by alias, with the width of their features, the side of their images,
    millions of parameters, the licence, what their towers lack, and whether they are in the local cache.

    Example: vladapt list backbones --domain medical
    """
    from ..engine.listing import backbone_rows, listing
    from ..errors import ConfigError

    if what != "backbones" and (domain or can):
        raise ConfigError(f"--{'domain' if domain else 'can'}: for `list backbones` only; omit it")
    rows = backbone_rows(domain, can) if what == "backbones" else listing(what)
    if as_json:
        print_json({what: rows})
        return
    if what == "backbones":
        echo("\n".join(published_backbone_lines(rows)))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        marks = [f"of domain {row['domain']}"] if "domain" in row else []
        marks += ["experimental"] if "experimental" in row else []
        suffix = f" ({', '.join(marks)})" if marks else ""
        echo(f"{row['name']:<{width}}  {row['what']}{suffix}".rstrip())


def show(
    what: Annotated[
        str,
        typer.Argument(metavar="[KIND] NAME", help="A name; write its kind first if several things have that name."),
    ],
    name: Annotated[str | None, typer.Argument(hidden=True)] = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Show an adapter, selector, curator, benchmark, loss, metric, judgement, output, domain, task or backbone with its
    options; or a recipe as it would run.

    KIND is adapter, selector, curator, benchmark, loss, metric, judgement, output, domain, task, recipe or backbone. A
    recipe has every default filled in; a config for mmdet or mmsegmentation is shown unchanged, ready to copy.

    Example: vladapt show tip-adapter
    """
    from ..engine.listing import SINGULAR, name_facts, only_kind
    from ..errors import ConfigError, UnknownNameError, did_you_mean

    kind, name = (only_kind(what), what) if name is None else (what, name)
    if kind not in SINGULAR:
        raise UnknownNameError(f"cannot show a '{kind}'; {did_you_mean(kind, SINGULAR)}")
    if kind == "recipe":
        _show_recipe(name, sets, as_json)
        return
    if sets:
        raise ConfigError("--set: only for recipes; omit it")
    description = name_facts(kind, name)
    if as_json:
        print_json(description.to_dict())
        return
    echo(f"{description.kind} {description.name}\n\n{description.text}\n")
    for term, words in description.facts:
        echo(f"{term}: {words}")
    if description.options:
        echo(f"\nOptions, set by {description.given_by}:\n")
        for each in description.options:
            default = f"; default {each.default_text}" if each.default_text else ""
            echo(f"  {each.name}: {each.help}\n      {each.accepts}{default}")


def _show_recipe(name: str, sets: list[str] | None, as_json: bool) -> None:
    from mmengine import Config

    resolved = Given(name, sets=sets or ()).recipe()
    plain = {key: value for key, value in resolved.to_dict().items() if key != "given"}
    content = Config(resolved.plan or plain)
    if as_json:
        print_json(content.to_dict())
    else:
        echo(content.pretty_text.strip())


def doctor(asked: Annotated[dict[str, str], FromDoctors()], as_json: Json = False) -> None:
    """Report what is installed, the device, the caches, what is missing and how to get it.

    With an option of a domain, check only what that option needs.

    Example: vladapt doctor
    """
    from ..engine.doctor import examine, examine_asked
    from .tables import findings_table

    findings = examine_asked(asked) if asked else examine()
    if as_json:
        print_json({"findings": [vars(f) for f in findings]})
    else:
        show_table(findings_table(findings))


def setup(
    backbone: Annotated[
        str,
        typer.Option(metavar="SPEC", help="Model to fetch, for instance openai-vit-b-16 (`vladapt list backbones`)."),
    ],
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Download a model once, try it, and say what its licence allows; from then on it is here, offline too.

    Example: vladapt setup --backbone openai-vit-b-16
    """
    from ..contracts.images import size_in_words
    from ..engine.set_up import set_up

    made = set_up(backbone, device or "auto", reporter=reporter())
    if as_json:
        print_json(made.to_dict())
        return
    echo(f"Ready: {made.backbone}, width {made.width}, {size_in_words(made.image_size)} ({made.seconds:g} s)")
    if made.fetched is not None:
        echo("Fetched now; no network is needed from here on" if made.fetched else "It was here already")
    echo(f"Licence of the weights: {made.licence}; commercial use: {made.commercial}")
    if made.colours_named is None:
        echo("It has no text tower: a fit needs labelled images")
    else:
        echo(f"Its words name {made.colours_named} of 3 drawn colours rightly")
    echo(f"Next: vladapt fit ./photos --backbone {made.backbone}")


COMMANDS = {"list": list_names, "show": show, "doctor": doctor, "setup": setup}
