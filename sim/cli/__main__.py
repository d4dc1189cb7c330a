"""`python -m sim.cli` is `podscope`."""

from sim.cli.app import main

main()
