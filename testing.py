"""Checks of your own adapter, loss, domain or task: a line for each rule of its contract that it violates.

    from vladapt.testing import check_adapter

    check_adapter(NearestMean)

`adapter_checks` and its like give the same rule by rule, for `pytest.mark.parametrize`. All of them run on drawn images
and small towers: nothing is downloaded.
"""

from .core.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __package__,
    {
        "core.testing.contract": "ContractError",
        "core.testing.adapters": "check_adapter adapter_checks",
        "core.testing.losses": "check_loss loss_checks",
        "core.testing.domains": "check_domain domain_checks",
        "core.testing.tasks": "check_task task_checks",
    },
)
