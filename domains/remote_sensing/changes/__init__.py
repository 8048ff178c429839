"""Change between two dates: pairs and their masks read, a siamese head trained on any tower, maps of what changed."""
