"""`python -m sim.cli` is `podscope`."""

from sim.cli import main

main()
