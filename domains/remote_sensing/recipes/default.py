"""The method that does best in cross-validation on 16 labelled images per class: at most a minute on a CPU."""

domain = "remote-sensing"
adapter = {"name": "auto"}
shots = 16
