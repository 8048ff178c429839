"""FLIP's way with attributes of faces: both towers stay as they are, the last linear layer of the image tower learns.

"15M Multimodal Facial Image-Text Dataset" (FaceCaption-15M; 2024, arXiv 2407.08515) tunes nothing but the linear layer
of its model for attributes of CelebA. Here it learns by binary cross-entropy against the sentences of the attributes,
on all labelled images; the settings are ours.
"""

domain = "person"
task = "attributes"
adapter = {"name": "projection", "views": 0, "lr": 1e-3, "penalty": 0.0, "epochs": 100}
shots = "all"
