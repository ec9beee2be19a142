"""Which edges of a pipeline matter, which are kept under a budget, and which a graph learns."""
