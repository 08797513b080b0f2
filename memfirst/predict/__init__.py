"""Seconds of a step: fitted to published speeds (`fitted`), or from rates measured on this machine (`measured`)."""
