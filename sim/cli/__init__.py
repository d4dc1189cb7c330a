"""The command line."""


def main() -> None:
    """Entry point of the `podscope` command."""
    from sim.cli import interrupts

    interrupts.at_once()  # before what takes long to load
    from sim.cli.app import main as run

    run()
