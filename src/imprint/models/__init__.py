"""Networks, and everything a trained one can do."""
