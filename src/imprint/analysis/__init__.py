"""Scoring, comparing, examining and explaining."""
