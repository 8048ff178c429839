"""The method that does best on parts of 16 labelled images per class: a minute at most on a CPU."""

domain = "medical"
adapter = {"name": "auto"}
shots = 16
