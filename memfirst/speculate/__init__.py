"""Tokens drafted from the text itself, and how many of them are worth a row of a step. It knows no model."""
