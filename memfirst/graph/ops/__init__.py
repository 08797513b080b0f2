"""One file per operation: its attributes, its meaning (a NumPy reference) and its traffic."""
