"""Networks of volumes."""
