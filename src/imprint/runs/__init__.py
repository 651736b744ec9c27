"""`train`: from images to a model, its score and its run folder (result.csv in it); a run folder read back."""
