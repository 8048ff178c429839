"""Phrase grounding: where in an image a phrase of a report is true, and how well that agrees with boxes."""
