"""Maps of rasters: windows scored, blended, written as GeoTIFF, regions and a page, and compared with a reference."""
