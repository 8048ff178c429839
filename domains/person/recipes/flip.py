"""FLIP's way with attributes of faces: only the last linear layer of the image tower is trained.

"15M Multimodal Facial Image-Text Dataset" (FaceCaption-15M; 2024, arXiv 2407.08515) tunes only the linear layer of its
model for attributes of CelebA. Here it is trained by binary cross-entropy against the sentences of the attributes, on
all labelled images; the settings are ours.
"""

domain = "person"
task = "attributes"
adapter = {"name": "projection", "views": 0, "lr": 1e-3, "penalty": 0.0, "epochs": 100}
shots = "all"
