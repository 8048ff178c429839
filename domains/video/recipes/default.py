"""The method that does best on parts of 16 labelled clips per class, on the mean of their frames."""

domain = "video"
adapter = {"name": "auto"}
shots = 16
