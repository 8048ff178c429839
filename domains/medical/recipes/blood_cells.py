"""Single cells of stained blood smears: few channels tell them apart, which is what APE chooses."""

domain = "medical"
data = {"modality": "haematology"}
adapter = {"name": "ape"}
shots = 16
