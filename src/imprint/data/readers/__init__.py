"""One reader a format; `imprint.data.load` finds the one that fits, so a new format is entered there too."""
