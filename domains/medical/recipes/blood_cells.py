"""Single cells of stained blood smears: few channels tell them apart, which is what APE chooses."""

domain = "medical"
data = dict(modality="haematology")
adapter = dict(name="ape")
shots = 16
