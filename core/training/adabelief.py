"""AdaBelief, which steps as far as a gradient is what was expected of it."""

from __future__ import annotations

import torch
from torch import Tensor


class AdaBelief(torch.optim.Optimizer):
    """AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients (Zhuang et al., 2020, arXiv
    2010.07468), with weight decay apart from the gradient.

        m = b1 m + (1 - b1) g;  s = b2 s + (1 - b2) (g - m)^2 + eps
        w -= lr m / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + eps)

    Ours, since timm's counts steps on the host, and so cannot leave one out on the device: with `found_inf`, as torch's
    fused optimisers have it, a step that is not to be used changes nothing, and the host does not wait.

    Args:
        params: parameters, or groups of them.
        lr, betas, eps, weight_decay: of all groups that do not say their own.
        kernels: "fused" and "foreach", as torch's optimisers take them; not used.
    """

    _step_supports_amp_scaling = True

    def __init__(self, params, lr: float = 1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0, **kernels):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "fused": True, "foreach": None, **kernels})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        infinite = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group, infinite)

    def _move(self, parameter: Tensor, group: dict, infinite: Tensor | None) -> None:
        state, (of_mean, of_variance) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_var"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        usable = torch.ones_like(state["step"]) if infinite is None else 1 - infinite.to(state["step"]).reshape(())
        step, mean, variance = state["step"].add_(usable), state["exp_avg"], state["exp_avg_var"]
        gradient = torch.where(usable > 0, parameter.grad, mean)
        mean.lerp_(gradient, 1 - of_mean)
        surprise = (gradient - mean).square_().mul_(1 - of_variance).add_(variance, alpha=of_variance)
        variance.copy_(torch.where(usable > 0, surprise + group["eps"], variance))
        corrected = (variance / (1 - of_variance**step)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - usable * (group["lr"] * group["weight_decay"]))
        change = mean / corrected * (usable * group["lr"] / (1 - of_mean**step))
        parameter.sub_(torch.where(usable > 0, change, torch.zeros_like(change)))
