"""Names without imports (`catalogue`), and building by name (`build`)."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "build": "adapter_class benchmark_class build_adapter build_backbone build_curator build_judgement build_loss "
        "build_metric build_selector check_packages curator_class judgement_class judging_options load_adapter "
        "load_domain loss_class output_class selector_class task_class",
    },
)
