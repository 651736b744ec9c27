"""Scores, comparisons, data checks, error analysis and explanations."""
