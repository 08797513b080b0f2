"""Measurements of memfirst: a read probe in C, comparisons with other engines, quality and memory.

Nothing here is imported by the package. Start at README.md.
"""
