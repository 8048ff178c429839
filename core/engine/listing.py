"""`list` and `show`: names told from file names and docstrings, options from the fields of the class."""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backbones.specs import PublishedModel, find_published, published
from ..contracts.families import FAMILIES
from ..contracts.options import Option, options_of
from ..curation import RECIPES, curation_recipe
from ..errors import ConfigError, UnknownNameError, did_you_mean
from ..registry import catalogue
from ..registry.catalogue import NameOrigin

SINGLE = (
    *("adapter", "selector", "curator", "composition", "benchmark"),
    *("metric", "judgement", "output", "domain", "task"),
)
PLURALS = {"loss": "losses", **{kind: f"{kind}s" for kind in SINGLE}}
"""Of what has an entry in the catalogue."""
KINDS = (*PLURALS.values(), "backbones", "recipes", "curations")
SINGULAR = (*PLURALS, "backbone", "recipe", "curation")


@dataclass
class NameFacts:
    """What there is to know of a name.

    Attributes:
        kind, name: what it is.
        text: its description, with the paper.
        options: what may be set, and how it is given ("--set adapter.NAME=value").
        given_by: how an option is given; "" where there are none.
        facts: (term, words).
    """

    kind: str
    name: str
    text: str
    options: list[Option] = field(default_factory=list)
    given_by: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        rows = [{"name": o.name, "accepts": o.accepts, "default": o.default_text, "help": o.help} for o in self.options]
        return {"kind": self.kind, "name": self.name, "text": self.text, "facts": dict(self.facts), "options": rows}


def listing(what: str) -> list[dict[str, str]]:
    """Rows {"name", "what"} of one of `KINDS`; of those that a domain brings also "domain", of methods whose formula is
    partly ours "experimental". Nothing is imported.

    Raises:
        UnknownNameError: something else is asked for.
    """
    if what not in KINDS:
        raise UnknownNameError(f"cannot list '{what}'; {did_you_mean(what, KINDS)}")
    if what == "backbones":
        return backbone_rows()
    if what == "recipes":
        return [{"name": name, "what": _first_line(path)} for name, path in catalogue.recipes().items()]
    if what == "curations":
        return [{"name": name, "what": each.text} for name, each in RECIPES.items()]
    return [_row(name, entry) for name, entry in sorted(_entries(what).items())]


def backbone_rows(domain: str | None = None, can: str | None = None) -> list[dict[str, Any]]:
    """Rows of the families of backbones, {"name", "what"}, and of the published models, with all that the table says of
    each, whether it lies in the local cache and the command that brings it there.

    Args:
        domain: only the models made for a domain; those for all photographs, where none was.
        can: only those whose towers have a capability.

    Raises:
        UnknownNameError: no domain, or no capability, of that name.
    """
    entries = list(published())
    if domain is not None:
        entries = _made_for(domain, entries)
    if can is not None:
        capabilities = frozenset().union(*(family["capabilities"] for family in FAMILIES.values()))
        if can not in capabilities:
            raise UnknownNameError(f"--can {can}: no tower has that capability; {did_you_mean(can, capabilities)}")
        entries = [entry for entry in entries if can in entry.can]
    if domain is can is None:
        families = [{"name": f["spec"], "what": f["what"]} for f in FAMILIES.values()]
        families += [_row(f"{name}:<name>", entry) for name, entry in sorted(catalogue.backbones().items())]
    else:
        families = []
    return [*families, *(entry.to_dict() for entry in entries)]


def _made_for(domain: str, entries: list[PublishedModel]) -> list[PublishedModel]:
    named = domain.replace("_", "-").lower()
    domains = {each for entry in entries for each in entry.domains} | set(catalogue.domains())
    if named not in domains:
        raise UnknownNameError(f"--domain {domain}: no domain has that name; {did_you_mean(named, domains)}")
    made = [entry for entry in entries if named in entry.domains]
    return made or [entry for entry in entries if "natural" in entry.domains]


def kinds_of(name: str) -> list[str]:
    """The kinds of thing that have a name: "ape" -> ["adapter"]."""
    kinds = [kind for kind, plural in PLURALS.items() if name in _entries(plural)]
    if any(name in (full, full.split("/", 1)[1]) for full in catalogue.recipes()) or "/" in name:
        kinds.append("recipe")
    if name in RECIPES:
        kinds.append("curation")
    if name.partition(":")[0] in {*FAMILIES, *catalogue.backbones()} or find_published(name) is not None:
        kinds.append("backbone")
    return kinds


def name_facts(kind: str, name: str) -> NameFacts:
    """The description, options and facts of an adapter, selector, curator, benchmark, loss, metric, judgement, domain,
    task or backbone.

    Raises:
        UnknownNameError: nothing of that kind has that name.
    """
    described = {"backbone": _backbone, "domain": _domain, "metric": _metric, "judgement": _judgement}
    described |= {"output": _output, "curation": _curation}
    if kind in described:
        return described[kind](name)
    from ..registry import adapter_class, benchmark_class, curator_class, loss_class, selector_class, task_class
    from ..registry.build import composition_class

    classes = {"adapter": adapter_class, "selector": selector_class, "loss": loss_class, "task": task_class}
    classes |= {"curator": curator_class, "benchmark": benchmark_class, "composition": composition_class}
    cls = classes[kind](name)
    text = _description(cls)
    if kind == "task":
        options = [] if cls.options is None else list(options_of(cls.options))
        facts = [("takes", ", ".join(sorted(cls.takes))), ("compares", ", ".join(sorted(cls.compares)) or "nothing")]
        return NameFacts(kind, name, text, options, "--set NAME=value", facts)
    if kind == "selector":
        return NameFacts(kind, name, text, list(options_of(cls)), "--set method.NAME=value")
    if kind == "benchmark":
        return NameFacts(kind, name, text, list(options_of(cls)), f"--set {name}.NAME=value", [("for", "bench")])
    if kind == "composition":
        return NameFacts(kind, name, text, list(options_of(cls)), f"search --compose {name}:NAME=value")
    if kind == "curator":
        return NameFacts(kind, name, text, list(options_of(cls)), "--set NAME=value", [("for", f"curate {cls.stage}")])
    how = "--set adapter.NAME=value" if kind == "adapter" else f"--set loss.{name}.NAME=value"
    facts = [("experimental", cls.experimental)] if cls.experimental else []
    if kind == "adapter":
        named = {"needs": cls.needs, "takes as well": cls.optional, "can": cls.can}
        facts += [(term, ", ".join(sorted(names))) for term, names in named.items()]
        from ..contracts.parts import RandomCrops, part_of  # torch, which lists do without

        if (crops := part_of(cls, RandomCrops)) is not None and (crop := crops.published_crop) is not None:
            facts.append(("published with random crops of", f"{crop[0]:.0%} to {crop[1]:.0%} of the area"))
    return NameFacts(kind, name, text, list(options_of(cls)), how, [(term, words) for term, words in facts if words])


def _description(cls: type) -> str:
    """What the file of a class says that it does and when to take it, then what the class says of itself."""
    parts = [inspect.getdoc(sys.modules[cls.__module__]) or "", inspect.cleandoc(cls.__doc__ or "")]
    return "\n\n".join(part for part in parts if part)


def _curation(name: str) -> NameFacts:
    from ..runs.sections import in_words  # numpy, which no other list needs

    recipe = curation_recipe(name)
    stages = [(each.curator, in_words(each.options) or "its defaults") for each in recipe.stages]
    return NameFacts("curation", name, recipe.text, facts=stages)


def only_kind(name: str) -> str:
    """The kind of a name that one kind alone has.

    Raises:
        UnknownNameError: nothing has that name. ConfigError: several kinds have it.
    """
    kinds = kinds_of(name)
    if not kinds:
        names = [names for plural in PLURALS.values() for names in _entries(plural)]
        names += [entry.alias for entry in published()]
        raise UnknownNameError(f"nothing is called '{name}'; {did_you_mean(name, [*names, *catalogue.recipes()])}")
    if len(kinds) > 1:
        raise ConfigError(f"'{name}' is several things; write {' or '.join(f'show {kind} {name}' for kind in kinds)}")
    return kinds[0]


def _entries(plural: str) -> dict[str, NameOrigin]:
    return getattr(catalogue, plural)()


def _row(name: str, entry: NameOrigin) -> dict[str, str]:
    if entry.file is None:
        return {"name": name, "what": f"from {entry.origin}"}
    row = {"name": name, "what": _first_line(entry.file)}
    if entry.domain:
        row["domain"] = entry.domain
    ours = catalogue.assigned(entry.file, "experimental")
    if ours is not None and getattr(ours, "value", True):
        row["experimental"] = "yes"
    return row


def _domain(name: str) -> NameFacts:
    from ..registry import load_domain

    domain = load_domain(name)
    facts = [("tasks", ", ".join(domain.task_names)), ("recipes", ", ".join(domain.recipes) or "none")]
    facts.append(("default adapter", domain.default_adapter))
    text = inspect.cleandoc(type(domain).__doc__ or "").partition("\n\nArgs:")[0]
    return NameFacts("domain", name, text, list(options_of(domain.reading)), "--set data.NAME=value", facts)


def _metric(name: str) -> NameFacts:
    from ..registry import build_metric

    metric = build_metric(name)
    takes = "one label or several per image" if metric.multilabel else "one label per image"
    return NameFacts("metric", name, inspect.cleandoc(type(metric).__doc__ or ""), facts=[("takes", takes)])


def _judgement(name: str) -> NameFacts:
    from ..registry import judgement_class

    cls = judgement_class(name)
    ways = {"fit": "--set NAME=value of fit", "eval": "--NAME value of eval", "predict": "--NAME value of predict"}
    given_by = ", ".join(words for at, words in ways.items() if at in cls.at)
    facts = [("made by", ", ".join(sorted(cls.at))), ("in the report", cls.place.value)]
    return NameFacts("judgement", name, inspect.cleandoc(cls.__doc__ or ""), list(options_of(cls)), given_by, facts)


def _output(name: str) -> NameFacts:
    from ..registry import output_class

    cls = output_class(name)
    facts = [("made of", cls.made_of), ("names the patient", "yes" if cls.identifies else "no")]
    how = f"predict --as {name}:NAME=value"
    return NameFacts("output", name, inspect.cleandoc(cls.__doc__ or ""), list(options_of(cls)), how, facts)


def _backbone(name: str) -> NameFacts:
    if (entry := find_published(name)) is not None:
        return NameFacts("backbone", name, f"Trained on {entry.trained_on}.", facts=_facts(entry))
    first, others = name.partition(":")[0], catalogue.backbones()
    if first in others:
        return NameFacts("backbone", name, f"From {others[first].origin}.", facts=[("given as", f"{first}:<name>")])
    family = FAMILIES.get(first)
    if family is None:
        names = [*FAMILIES, *others, *(entry.alias for entry in published())]
        raise UnknownNameError(f"unknown backbone '{name}'; {did_you_mean(name, names)}")
    return NameFacts("backbone", name, family["what"], facts=[("given as", family["spec"])])


def _facts(entry: PublishedModel) -> list[tuple[str, str]]:
    """(term, words) of a published model."""
    licence = entry.licence + (", non-commercial use only" if entry.non_commercial else "")
    return [
        ("published as", entry.id or entry.url),
        ("stands for", entry.to_dict()["spec"]),
        ("width", str(entry.width)),
        ("resolution", str(entry.size)),
        ("parameters", f"{entry.parameters:g} million"),
        ("licence", licence + (", gated: its terms must be accepted on the hub" if entry.gated else "")),
        ("made for", ", ".join(entry.domains)),
        ("can", ", ".join(sorted(entry.can))),
        ("in the local cache", "yes" if entry.is_cached() else "no"),
        ("to fetch it", entry.fetch_command()),
    ]


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return text.splitlines()[0] if text else ""
