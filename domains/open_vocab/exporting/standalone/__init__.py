"""What an export of a detector or segmentor is asked by, without vladapt or torch."""
