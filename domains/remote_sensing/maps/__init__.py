"""Maps of rasters: windows scored, blended, written as GeoTIFF, regions and a page, and compared with a reference."""

MAP_FILES = (".tif", ".gpkg", ".geojson")
"""Suffixes of files that are maps whatever the run; a page, .html, is one where the run was fitted on windows."""
