"""The web page and the HTTP service: one process that never imports torch."""
