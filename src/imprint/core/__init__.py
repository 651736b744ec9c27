"""Errors, files, progress, metrics and scores: what everything stands on; no torch."""

__version__ = "0.2.0"
