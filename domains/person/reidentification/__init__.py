"""Re-identification: who is sought among whom, how well towers find them, how they are trained, what a report shows."""
