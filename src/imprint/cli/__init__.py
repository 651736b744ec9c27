"""The command line: one function a verb, without logic of its own."""
