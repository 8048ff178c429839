"""Four spots per class, by the nearest mean."""

domain = "toy"
task = "classification"
shots = 4
adapter = {"name": "nearest-spot", "text": 0.2}
