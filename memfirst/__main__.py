"""`python -m memfirst` is the `memfirst` command."""

from memfirst.cli import main

main()
