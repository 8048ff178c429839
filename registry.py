"""mmengine registries of this package: children of mmengine's roots, scope `vladapt`.

mmengine looks for `<scope>.registry` by itself: with `default_scope = "vladapt"` a config finds what is here.
"""

from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

SCOPE = "vladapt"

MODELS = Registry("model", parent=ROOT_MODELS, scope=SCOPE)
DATASETS = Registry("dataset", parent=ROOT_DATASETS, scope=SCOPE)
TRANSFORMS = Registry("transform", parent=ROOT_TRANSFORMS, scope=SCOPE)
METRICS = Registry("metric", parent=ROOT_METRICS, scope=SCOPE)
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope=SCOPE)
