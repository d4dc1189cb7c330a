"""The command line."""

from typing import Any


def main() -> None:
    """Entry point of the `podscope` command."""
    from sim.cli import interrupts

    interrupts.at_once()  # before what takes long to load
    from sim.cli.app import main as run

    run()


def __getattr__(name: str) -> Any:
    """`app`, loaded when it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sim.cli.app import app

    return app
