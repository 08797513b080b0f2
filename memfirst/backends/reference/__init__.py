"""Runs a Graph in NumPy float32: the ground truth for tests."""
