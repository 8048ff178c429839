"""What every adapter keeps, as functions that anyone can run on a class of their own."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..contracts.adapter import Adapter, FitReport
from ..contracts.adapter_file import read_adapter_file
from ..contracts.backbone import Backbone
from ..errors import CapabilityError, DataError
from ..training.samples import seed_everything
from . import adapter_claims as claims
from .contract import Check, checks_of, first_line, refusal, violations
from .method import Method, logits_elsewhere
from .options import OPTION_RULES, Options
from .processes import class_place, workers
from .towers import plain_towers
from .world import NO_LABELS, World, world_of

WIDTHS = (3, 8, 640)


def check_adapter(cls: type[Adapter], *, raises: bool = True, **how: Any) -> list[str]:
    """Hold a method to the contract of `Adapter`, on a small world of drawn images.

    Args:
        cls: the class of a method.
        raises: raise where it breaks a rule; else the lines are returned.
        how: as for `adapter_checks`.

    Returns:
        A line per violated rule: "adapter 'x': saved and loaded again, its logits differ by 0.3".

    Raises:
        ContractError: an AssertionError with those lines.
        Unchecked: a CapabilityError: the method runs towers, and the extra open-clip is not installed.
    """
    return violations(adapter_checks(cls, **how), raises)


def adapter_checks(
    cls: type[Adapter],
    *,
    options: Mapping[str, Any] | None = None,
    counts: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
    backbone: Backbone | None = None,
    shown: Collection[str] = (),
) -> Iterator[Check]:
    """The same rule by rule: (name, call), for `pytest.mark.parametrize` and its like. A call raises `ContractError`.

    Args:
        cls: the class of a method.
        options: that make it fast; by default fewer epochs, steps and views, where it has such options.
        counts: option -> two settings that differ in it and in their results, where no value of it alone shows that it
            counts. "also" in both names resources that it counts with, of `world.REPLACING`, or "no_labels".
        backbone: towers to run on, which `load_backbone` can load again by their `spec`; by default small ones.
        shown: options that a test of your own shows to count, which no fit is spent on.
    """
    method = Method(cls, options, counts, backbone, shown)
    yield from checks_of(Options(cls, method.title), OPTION_RULES)
    yield from checks_of(method, [*_rules(method), *claims.rules_of(method)])


def _rules(method: Method) -> list:
    says = method.claims
    rules = [
        fits_and_predicts,
        two_classes_of_one_image,
        classes_of_unequal_sizes,
        a_thousand_classes,
        the_seed_fixes_the_result,
        each_image_is_judged_alone,
        what_is_given_stays_as_it_is,
        saved_and_loaded,
        its_file_holds_its_state,
        moves_to_a_device,
        nothing_fitted_is_refused,
        another_width_is_refused,
        several_labels if says.multilabel else several_labels_are_refused,
        no_labels if says.label_free else no_labels_are_refused,
    ]
    if not method.needs_towers:
        rules += [any_width, without_a_backbone]
    if class_place(method.cls) is not None:
        rules.append(another_process)
    return rules


# fits -----------------------------------------------------------------------------------------------------------------


def fits_and_predicts(method: Method) -> Iterator[str]:
    """A report that says what was done, and one finite number per image and class."""
    report = method.fitted.report
    if not isinstance(report, FitReport):
        yield f"its fit returns {type(report).__name__}, not a FitReport"
    if not report.adapter or (method.cls.name and report.adapter != method.cls.name):
        yield f"its report is of adapter '{report.adapter}'"
    if not report.chosen_on:
        yield "its report does not say what settings were chosen on"
    try:
        json.dumps(report.to_dict())
    except TypeError as error:
        yield f"its report cannot be written as JSON ({error})"
    yield from _faults(method.logits, 12, 3, "three classes of three images")


def two_classes_of_one_image(method: Method) -> Iterator[str]:
    yield from _fits_world(method, world_of(method.backbone, 2, 1, 3), "two classes of one image", use_val=False)


def classes_of_unequal_sizes(method: Method) -> Iterator[str]:
    yield from _fits_world(method, world_of(method.backbone, 4, (3, 0, 1, 2), 3), "classes of 3, 0, 1 and 2 images")
    larger = world_of(method.backbone, 5, (1, 7, 2, 16, 5), 3)
    yield from _fits_world(method, larger, "classes of 1 to 16 images", use_val=False)


def a_thousand_classes(method: Method) -> Iterator[str]:
    """Four of them with an image; of a method that needs no towers all."""
    few = world_of(method.backbone, 1000, (1,) * 4 + (0,) * 996, 3)
    yield from _fits_world(method, few, "1,000 classes, four of them with an image", use_val=False)
    if not method.needs_towers:
        full = world_of(plain_towers(48), 1000, 1, 3)
        yield from _fits_world(method, full, "1,000 classes of one image", use_val=False)


def any_width(method: Method) -> Iterator[str]:
    for width in WIDTHS:
        yield from _fits_world(method, world_of(plain_towers(width), tests=3), f"features of width {width}")


def without_a_backbone(method: Method) -> Iterator[str]:
    """A method that asks for no towers is fitted on a features file, where there are none."""
    expected, resources = method.logits, method.world.inputs(method.build())["resources"]
    needed = {name: value for name, value in resources.items() if name in {"templates"} | method.claims.needs}
    logits = method.world.logits(method.fit(change={"backbone": None, "resources": needed}).adapter)
    yield from _faults(logits, 12, 3, "features alone")
    if not method.claims.optional and not _close(logits, expected):
        yield "gives other logits without a backbone; put 'text_encoder' in needs or optional"


def the_seed_fixes_the_result(method: Method) -> Iterator[str]:
    """Whatever state the generators of the process are in."""
    expected = method.logits
    seed_everything(1)
    if not torch.equal(method.world.logits(method.fit().adapter), expected):
        yield "gives other numbers with the same seed; draw from a generator of its own, seeded by seed="


def each_image_is_judged_alone(method: Method) -> Iterator[str]:
    """Whatever else is in the batch; of a transductive method, whatever else is asked once it is fitted."""
    adapter, items = method.fitted.adapter, method.world.items["test"][:3]
    alone = torch.cat([method.world.logits(adapter, [item]) for item in items])
    if not _close(alone, method.logits[:3], 1e-3):
        yield f"judges an image differently beside others: its logits differ by {_apart(alone, method.logits[:3])}"


def what_is_given_stays_as_it_is(method: Method) -> Iterator[str]:
    """The support, the classifier, val, resources and the backbone."""
    for place in method.fitted.changed:
        yield f"its fit changes {place}; work on a copy"


def several_labels(method: Method) -> Iterator[str]:
    """Some of them unknown; what is learned of them is saved too."""
    world = world_of(method.backbone, several=True)
    adapter = method.fit(world).adapter
    logits = world.logits(adapter)
    yield from _faults(logits, 12, 3, "several labels per image")
    again = method.loaded(adapter.save(method.folder / "several.safetensors"))
    if not _close(world.logits(again), logits):
        yield f"fitted to several labels, saved and loaded, its logits differ by {_apart(world.logits(again), logits)}"
    if method.claims.at_predict <= {"features"}:
        probabilities = adapter.predict(torch.randn(2, world.backbone.embed_dim))
        if probabilities.shape != (2, 3) or probabilities.min() < 0 or probabilities.max() > 1:
            yield "predicts no probability of each label where images have several"


def several_labels_are_refused(method: Method) -> Iterator[str]:
    did, _ = refusal(lambda: method.fit(world_of(method.backbone, several=True)), CapabilityError)
    if did:
        yield f"is not multilabel, and given several labels per image it {did}; raise the CapabilityError of one line"


def no_labels(method: Method) -> Iterator[str]:
    """Without labels, and without images; with the test images where it uses these."""
    labels = replace(method.world.inputs(method.build())["support"], labels=None)
    also = (NO_LABELS,) if method.claims.transductive_unlabelled else ()
    for support, words in ((labels, "a support without labels"), (None, "no support")):
        adapter = method.fit(change={"support": support}, also=also).adapter
        yield from _faults(method.world.logits(adapter), 12, 3, words)


def no_labels_are_refused(method: Method) -> Iterator[str]:
    unlabelled = method.world.inputs(method.build())["support"].without_labels()
    did, _ = refusal(lambda: method.fit(change={"support": unlabelled}), CapabilityError)
    if did:
        yield f"is not label_free, and given no labels it {did}; raise the CapabilityError of one line"


# files ----------------------------------------------------------------------------------------------------------------


def saved_and_loaded(method: Method) -> Iterator[str]:
    again = method.loaded()
    if json.dumps(again.options, default=list) != json.dumps(method.fitted.adapter.options, default=list):
        yield "saved and loaded again, it has other options"
    try:
        logits = method.world.logits(again)
    except Exception as error:
        yield f"saved and loaded again, it raises {type(error).__name__} ({first_line(error)}); name it in state"
    else:
        if not _close(logits, method.logits):
            yield f"saved and loaded again, its logits differ by {_apart(logits, method.logits)}"


def its_file_holds_its_state(method: Method) -> Iterator[str]:
    """What `state` names, and no more."""
    header, tensors = read_adapter_file(method.file)
    held = {key.split("/")[0] for key in tensors} | set(header["scalars"]) | set(header["dicts"])
    if held != set(method.cls.state):
        yield f"its file holds {', '.join(sorted(held))}; state names {', '.join(sorted(method.cls.state))}"
    if len(set(method.cls.state)) != len(method.cls.state):
        yield "state names an attribute twice"


def another_process(method: Method) -> Iterator[str]:
    """Fitted here, it predicts the same there."""
    job = {"place": class_place(method.cls), "name": method.cls.name, "file": str(method.file)}
    expected = method.logits
    try:
        (answer,) = workers(1).run(logits_elsewhere, {**job, "backbone": method.backbone.spec})
    except RuntimeError as error:
        yield f"loaded in another process, it fails: {error}"
    else:
        if not _close(answer["logits"], expected):
            yield f"loaded in another process, its logits differ by {_apart(answer['logits'], expected)}"


def moves_to_a_device(method: Method) -> Iterator[str]:
    """`to` moves the tensors of its state, and returns the adapter; results are the same on a GPU, if there is one."""
    adapter = method.loaded()
    if adapter.to("meta") is not adapter:
        yield "to(device) does not return the adapter"
    for name in method.cls.state:
        value = getattr(adapter, name)
        if isinstance(value, Tensor) and value.device.type != "meta":
            yield f"to(device) leaves {name} where it is"
    if torch.cuda.is_available() and method.claims.at_predict <= {"features"} and "pixels" not in method.claims.needs:
        features, _ = method.world.seen(adapter, method.world.items["test"], method.backbone)
        there = method.loaded().to("cuda").logits(features.to("cuda")).cpu()
        if not _close(there, method.logits, 1e-2):
            yield f"on a GPU its logits differ by {_apart(there, method.logits)}"


def nothing_fitted_is_refused(method: Method) -> Iterator[str]:
    adapter = method.build()
    features = torch.zeros(1, method.backbone.embed_dim)
    for words, call, kind in (
        ("logits()", lambda: adapter.logits(features), CapabilityError),
        ("save()", lambda: adapter.save(method.folder / "none.safetensors"), DataError),
    ):
        did, _ = refusal(call, kind)
        if did:
            yield f"not fitted, its {words} {did}; raise the {kind.__name__} of one line"


def another_width_is_refused(method: Method) -> Iterator[str]:
    adapter = method.fitted.adapter
    wider = torch.zeros(1, method.backbone.embed_dim + 1)
    did, _ = refusal(lambda: adapter.logits(wider), CapabilityError)
    if did:
        yield f"given features of another width than those of the fit it {did}; raise the CapabilityError of one line"


# ----------------------------------------------------------------------------------------------------------------------


def _fits_world(method: Method, world: World, words: str, use_val: bool = True) -> Iterator[str]:
    """What is wrong with a fit in a world; of a method that fits nowhere, `Method.fitted` says so once."""
    _ = method.fitted
    try:
        fitted = method.fit(world, use_val=use_val)
        logits = world.logits(fitted.adapter)
    except Exception as error:
        yield f"fails on {words}: {type(error).__name__}: {first_line(error)}"
    else:
        yield from _faults(logits, len(world.items["test"]), len(world.names), words)


def _faults(logits: Tensor, images: int, classes: int, words: str) -> Iterator[str]:
    if logits.shape != (images, classes):
        yield f"on {words} its logits have shape {tuple(logits.shape)}, not {(images, classes)}"
    elif not logits.is_floating_point() or not torch.isfinite(logits).all():
        yield f"on {words} its logits are not finite numbers"


def _close(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=tolerance, atol=tolerance)


def _apart(one: Tensor, other: Tensor) -> str:
    return f"{float((one - other).abs().max()):.2g}" if one.shape == other.shape else "their shape"
