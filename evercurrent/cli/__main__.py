"""`python -P -m evercurrent.cli`, which is how `up` and `demo` start their child processes."""

from evercurrent.cli import main

main()
