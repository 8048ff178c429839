"""Options of how pictures from above are read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from ...core.contracts import DomainData, InputChannels, NumberReading, option
from ...core.data import IMAGE, Format
from .bands import check_bands, further_channels, named_bands, sensors
from .drawn_windows import WAYS
from .gdal import DRIVERS
from .localization.heat import LEAST_SIDE, MOST_SIDE, check_sides
from .pictures import check_stretch, is_raster, raster_format
from .windows import GRID, Cutting

CORPORA: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "clip": ((0.481, 0.458, 0.408), (0.269, 0.261, 0.276)),
    "rs5m": ((0.406, 0.423, 0.390), (0.188, 0.175, 0.185)),
    "pub11": ((0.445, 0.469, 0.441), (0.208, 0.193, 0.213)),
    "rs3": ((0.350, 0.356, 0.316), (0.158, 0.147, 0.143)),
    "geometa": ((0.320, 0.322, 0.285), (0.179, 0.168, 0.166)),
}
"""Corpus -> mean and standard deviation of red, green and blue, as "RS5M and GeoRSCLIP" publishes them (2023, arXiv
2306.11300)."""
WINDOW, CHANGE_WINDOW, DENSE_WINDOW = 224, 256, 512
NUMBERS = "pixel-regression"
USED_BY_RASTERS = ("bands", "band_start", "sensor", "stretch")
USED_BY_TARGETS = ("target_band", "target_nodata", "resample_target")
USED_BY_WINDOWS = ("window_size", "overlap", "min_share", "draw_windows")
"""Options that change nothing without rasters, numbers for each pixel, or a label layer."""
CHANNELS_ADVICE = "--bands of three, or --band-start mean"


@dataclass(frozen=True, kw_only=True)
class RemoteSensingReading(NumberReading):
    """Options of `RemoteSensing.read`, given as `data.NAME` in a recipe."""

    bands: str | None = option(
        None,
        "rasters: numbers from 1 (4,3,2), names, a composite (false-color), an index (ndvi); 4@842: at 842 nm",
        parse=check_bands,
    )
    band_start: str = option(
        InputChannels.ZERO,
        "four or more bands: initial weights of the others than red, green, blue; mean: the mean of those",
        choices=InputChannels.STARTS,
    )
    sensor: str | None = option(
        None, "rasters: the sensor, which determines the names and the scale of the bands", choices=sensors()
    )
    stretch: str | tuple[float, ...] = option(
        "auto",
        "rasters of over 8 bits: auto (percentiles of a sample), image (of each image), or low,high",
        parse=check_stretch,
    )
    labels: str | None = option(
        None,
        "label layer (.gpkg, .geojson, .shp, raster): classes of windows; in predict the map's reference",
        metavar="FILE",
    )
    after: str | None = option(
        None, "change: the raster of the second date, where --data is that of the first", metavar="FILE"
    )
    window_size: int | None = option(
        None,
        "large rasters: side of a window in pixels; by default 224, for change 256, boxes and masks 512",
        low=8,
        high=8192,
    )
    overlap: float = option(0.25, "large rasters: share of a window that the next window covers too", low=0, below=1)
    min_share: float = option(0.5, "large rasters: share of a window that its class must cover", above=0, high=1)
    draw_windows: str = option(
        GRID,
        "label layers: training windows on a grid, or drawn in each epoch: random, or balanced by class",
        choices=WAYS,
    )
    cut: bool = option(False, "cut new rasters larger than a window; segmentation and detection do so anyway")
    background: bool = option(True, "masks: pixels that no label covers are the first class, not ignored")
    window_sides: tuple[int, ...] | None = option(
        None,
        "new rasters as windows of one or several sides, for an index (search, localize): 256,512,768",
        low=LEAST_SIDE,
        high=MOST_SIDE,
        parse=check_sides,
    )
    block_size: float | None = option(
        None, "splits by place: side of a block in metres; by default ten windows, 0 for random splits", low=0
    )
    time_series: bool = option(
        False,
        "dates of a place are parts of one sample: columns place and date, or dates in file names",
    )
    corpus: str | None = option(
        None, "normalise by the mean and deviation of a corpus; by default by the tower's own", choices=CORPORA
    )

    target_band: int | None = option(
        None, "pixel-regression: band of the numbers, from 1; needed where a target has several", low=1, high=2000
    )
    target_nodata: float | None = option(
        None, "pixel-regression: stored number that means nothing, where the target does not say so"
    )
    resample_target: bool = option(
        False, "pixel-regression: take a target whose pixels are over twice as large, or as small, as the image's"
    )

    language: str | None = option(
        None, "captions: only those of this language, in tables with a column language; by default all"
    )

    @property
    def formats(self) -> tuple[Format, ...]:
        """Rasters and images, as these options say."""
        rasters = raster_format(self.bands, self.sensor, self.stretch, self.max_pixels)
        return rasters, replace(IMAGE, max_pixels=self.max_pixels)

    @property
    def channels(self) -> InputChannels | None:
        """Those of a picture that has more than three."""
        names = further_channels(self.bands, self.sensor)
        return None if names is None else InputChannels(names, self.band_start, CHANNELS_ADVICE)

    @property
    def named_channels(self) -> InputChannels | None:
        """Those of a picture of three or more whose bands were chosen, with what is known of each band."""
        names, bands = named_bands(self.bands, self.sensor)
        return InputChannels(names, self.band_start, CHANNELS_ADVICE, bands) if names else None

    @property
    def cutting(self) -> Cutting:
        """How large rasters are cut into windows."""
        size = self.window_size or (DENSE_WINDOW if self.cut else WINDOW)
        return Cutting(size, self.overlap, self.min_share, self.block_size)

    def notes_on_unused(self, data: DomainData) -> list[str]:
        """One sentence for each option that was given and changed nothing: no raster, or none that is cut."""
        rasters = any(is_raster(item.source) for item in data.items)
        kinds = {
            **({} if rasters else dict.fromkeys(USED_BY_RASTERS, f"rasters ({' '.join(DRIVERS)})")),
            **({} if rasters or data.blocks else {"block_size": "rasters, and tables with latitude and longitude"}),
            **({} if self.labels else dict.fromkeys(USED_BY_WINDOWS, "rasters with --labels")),
            **({"band_start": "four or more bands"} if rasters and self.channels is None else {}),
            **({} if data.kind == "captions" else {"language": "tables of captions"}),
            **dict.fromkeys(USED_BY_TARGETS, NUMBERS),
            "window_sides": "new rasters, as vladapt index reads them",
            "after": "change",
            **dict.fromkeys(("cut", "background"), "segmentation and detection"),
            **({"time_series": "classification"} if data.kind == "captions" else {}),
        }
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return [f"Option {name} has no effect here: it is for {kinds[name]}." for name in changed if name in kinds]
