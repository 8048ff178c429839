"""What is done with clips."""
