"""Windows of rasters, labelled by a layer (`--labels`): a classifier whose predictions make maps of other rasters."""

domain = "remote-sensing"
data = {"window_size": 128, "overlap": 0.5}
adapter = {"name": "linear-probe"}
shots = 64
