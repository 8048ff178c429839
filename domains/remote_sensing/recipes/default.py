"""The method that does best on parts of 16 labelled images per class: a minute at most on a CPU."""

domain = "remote-sensing"
adapter = {"name": "auto"}
shots = 16
