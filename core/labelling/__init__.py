"""Which images to label, the page on which they are labelled, and which labels look wrong."""
