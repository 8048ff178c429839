"""Methods of the medical domain, one file each."""
