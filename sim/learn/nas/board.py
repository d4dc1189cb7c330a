"""Epochs as TensorBoard shows them, while a search runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def board(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A function of a row of the log, which adds it to `folder`/tensorboard, a run a stage: numbers
    as curves, widths as histograms.  Needs the package tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    writers: dict[str, Any] = {}

    def watch(row: dict[str, Any]) -> None:
        stage, epoch = row["stage"], row["epoch"]
        if stage not in writers:
            writers[stage] = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=epoch)
        for key, value in row.items():
            if isinstance(value, list) and value:
                writers[stage].add_histogram(key, np.array(value), epoch)
            elif isinstance(value, int | float) and key != "epoch":
                writers[stage].add_scalar(key, value, epoch)
        writers[stage].flush()

    return watch
