"""Errors, files, progress, metrics and scores: what everything stands on; no torch."""
