"""Labelled images: read, decoded, cached, split and examined."""
