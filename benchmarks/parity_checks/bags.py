"""Methods that learn from bags, samples of many parts with one label."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt.adapters.bags.abmil import AttentionBag, bernoulli_loss
from vladapt.adapters.bags.clam import ClamBag
from vladapt.adapters.bags.top_k import pooled_scores
from vladapt.adapters.bags.trans_mil import TransBag, pseudo_inverse

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


def _loaded(network: nn.Module, ref: Reference, prefix: str, names: dict[str, str]) -> nn.Module:
    """A network with the weights of the fixture.

    Args:
        names: beginning of a name of the fixture -> of ours.
    """
    weights: dict[str, list[Tensor]] = {}
    for key, name in ref.keys(rf"w\.{prefix}(.+)"):
        begins = max((each for each in names if name.startswith(each)), key=len, default="")
        ours = names.get(begins, "") + name[len(begins) :]
        in_place = ours if ours in network.state_dict() else re.sub(r"\.\d+\.(?=\w+$)", ".", ours)
        weights.setdefault(in_place, []).append(ref[key])  # a layer of each class is a row, or two, of ours
    network.load_state_dict({name: torch.cat(some) for name, some in weights.items()})
    return network.eval()


def _criterion(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels)


@compares("abmil", "mil_attention")
def attention(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for kind, gated in (("attention", False), ("gated", True)):
        names = {
            "attention.0": "attention.attend",
            "attention.2": "attention.score",
            "attention_V.0": "attention.attend",
            "attention_U.0": "attention.gate",
            "attention_w": "attention.score",
            "classifier.0": "classifier",
        }
        width = ref["x"].shape[1]
        network = AttentionBag(width, 0, ref.setting("L"), gated, outputs=1)
        _loaded(network, ref, rf"{kind}\.", names)
        bag = ref["x"].clone().requires_grad_()
        logits = network(bag)
        yield ref.check(logits.softmax(0)[1], f"{kind}.prob", f"{kind}: probability")
        yield ref.check(network.attention(bag).softmax(0), f"{kind}.attention", f"{kind}: weights")
        label = ref.setting("label")
        loss = bernoulli_loss(_criterion, logits, torch.tensor(label))
        yield ref.check(loss, f"{kind}.nll_label{label}", f"{kind}: loss")
        (gradient,) = torch.autograd.grad(loss, bag)
        yield ref.check(gradient, f"{kind}.grad_x", f"{kind}: gradient of the bag")


@compares("clam", "mil_clam")
def clam(ref: Reference, f: Fixtures) -> Iterator[Check]:
    label, count, share = torch.tensor(ref.setting("label")), ref.setting("k"), ref.setting("bag_weight")
    for kind in ("sb", "mb"):
        names = {
            "attention_net.0": "embed.0",
            "attention_net.3.attention_a.0": "attention.attend",
            "attention_net.3.attention_b.0": "attention.gate",
            "attention_net.3.attention_c": "attention.score",
            "classifiers": "classifier",
            "instance_classifiers": "instance_classifiers",
        }
        sizes = (ref["x"].shape[1], ref.setting("C"), ref.setting("H"), ref.setting("D"))
        network = _loaded(ClamBag(*sizes, kind == "mb", 0.25), ref, rf"{kind}\.", names)
        for subtyping in (False, True):
            case = f"{kind}.subtyping" if subtyping else kind
            bag = ref["x"].clone().requires_grad_()
            logits, weights, instances = network.read(bag)
            yield ref.check(logits, f"{case}.logits")
            yield ref.check(network.attention(network.embed(bag)).T, f"{case}.attention_raw")
            made = network.instance_scores(weights, instances, int(label), count, subtyping)
            yield ref.check(torch.cat([targets for _, targets in made]), f"{case}.inst_labels")
            yield ref.check(torch.cat([scores.argmax(dim=1) for scores, _ in made]), f"{case}.inst_preds")
            of_parts = network.instance_loss(weights, instances, int(label), count, subtyping, F.cross_entropy)
            yield ref.check(of_parts, f"{case}.instance_loss")
            total = share * _criterion(logits[None], label[None]) + (1 - share) * of_parts
            yield ref.check(total, f"{case}.total")
            (gradient,) = torch.autograd.grad(total, bag)
            yield ref.check(gradient, f"{case}.grad_x")


@compares("trans-mil", "mil_transmil")
def trans_mil(ref: Reference, f: Fixtures) -> Iterator[Check]:
    yield ref.check(pseudo_inverse(ref["pinv.x"]), "pinv.iter6", "pseudo-inverse")
    bag = ref["x"][0].clone().requires_grad_()
    network = TransBag(bag.shape[1], ref.setting("C"), ref.setting("d"), dropout=0.1)
    _loaded(network, ref, "", {})
    seen: dict[str, Tensor] = {}
    for name, module in (("after_layer1", network.layer1), ("after_ppeg", network.pos_layer)):
        module.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
    logits = network(bag)
    for name, value in seen.items():
        yield ref.check(value, name)
    yield ref.check(logits, "logits")
    yield ref.check(network.layer1.attn(ref["nystrom.x"]), "nystrom.out", "attention alone")
    loss = _criterion(logits[None], torch.tensor([ref.setting("label")]))
    (gradient,) = torch.autograd.grad(loss, bag)
    yield ref.check(gradient, "grad_x", "gradient of the bag")


@compares("top-k", "mil_vila_mizero")
def top_k(ref: Reference, f: Fixtures) -> Iterator[Check]:
    scores = ref["mizero.patch_logits"]
    for key, number in ref.keys(r"mizero\.pooled_top(\d+)"):
        k = min(int(number), len(scores))
        pooled = pooled_scores(scores, k)
        yield ref.check(pooled * k, key, f"sum of the {number} largest")
        yield ref.check(pooled.argmax(), f"mizero.pred_top{number}", f"answer by the {number} largest")
    prompts = F.normalize(ref["mizero.prompt_embeddings"], dim=-1)
    yield ref.check(F.normalize(prompts.mean(dim=1), dim=-1).T, "mizero.classifier", "class vectors")


GROUPS = (attention, clam, trans_mil, top_k)
DEVIATIONS: dict[str, str] = {}
