"""`python -m imprint`, the same as `imprint`."""

from imprint.cli import main

main()
