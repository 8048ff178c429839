"""How images are changed that a model may meet, and what it loses by that."""
