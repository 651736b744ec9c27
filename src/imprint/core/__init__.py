"""Errors, files, progress, metrics and scores, for all other packages; no torch."""

__version__ = "0.2.0"
