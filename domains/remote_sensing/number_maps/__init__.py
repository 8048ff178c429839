"""Numbers per pixel: their rasters over images, a network that predicts them, how far it errs, and its maps."""

from .draw import drawn_windows as drawn_windows
from .evaluation import evaluate_number_maps as evaluate_number_maps
from .mapping import map_rasters as map_rasters
from .plan import make_number_plan as make_number_plan
from .plan import number_plan_facts as number_plan_facts
from .reading import read_number_maps as read_number_maps
from .regressor import Regressor as Regressor
from .regressor import settle_regressor as settle_regressor
from .target import NumberMap as NumberMap
from .target import NumberSource as NumberSource
from .target import scaled_pixels as scaled_pixels
