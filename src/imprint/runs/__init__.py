"""`train`: from images to a model, its score and its run folder; what a run left, read back."""
