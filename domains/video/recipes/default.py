"""The method that does best in cross-validation on 16 labelled clips per class, on the mean of their frames."""

domain = "video"
adapter = {"name": "auto"}
shots = 16
