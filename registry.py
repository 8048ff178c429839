"""mmengine registries of this package: children of mmengine's roots, scope `vladapt`.

mmengine looks for `<scope>.registry` by itself: with `default_scope = "vladapt"` a config finds what is here, and from
any other scope as `vladapt.NAME`. What a domain has for configs lies in its folder `modules/`, imported at first use.
"""

from pathlib import Path

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

SCOPE = "vladapt"
LOCATIONS = [
    f"{__package__}.domains.{folder.parent.name}.modules"
    for folder in sorted((Path(__file__).parent / "domains").glob("*/modules"))
]

MODELS = Registry("model", parent=ROOT_MODELS, scope=SCOPE, locations=LOCATIONS)
DATASETS = Registry("dataset", parent=ROOT_DATASETS, scope=SCOPE, locations=LOCATIONS)
DATA_SAMPLERS = Registry("data sampler", parent=ROOT_DATA_SAMPLERS, scope=SCOPE, locations=LOCATIONS)
TRANSFORMS = Registry("transform", parent=ROOT_TRANSFORMS, scope=SCOPE, locations=LOCATIONS)
METRICS = Registry("metric", parent=ROOT_METRICS, scope=SCOPE, locations=LOCATIONS)
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope=SCOPE, locations=LOCATIONS)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optim wrapper constructor", parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS, scope=SCOPE, locations=LOCATIONS
)
OPTIM_WRAPPERS = Registry("optim_wrapper", parent=ROOT_OPTIM_WRAPPERS, scope=SCOPE, locations=LOCATIONS)
