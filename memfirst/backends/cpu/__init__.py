"""Runs a Program with the compiled kernels. Imports kernels and lower."""
