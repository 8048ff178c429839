"""What is said of fits on medical images besides what all domains say."""
