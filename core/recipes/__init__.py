"""What a user asks for: keys settled into a recipe, and what a recipe names made of it: data, adapters, a backbone."""

from ..lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "adapters": "adapter_of backbone_of check_named encoding_batch_size",
        "data": "read_data",
    },
)
