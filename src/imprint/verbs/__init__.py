"""The verbs of the command line, one function each, without logic of their own."""
