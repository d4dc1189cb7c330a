"""Before any test: one thread for linear algebra, whose matrices here are too small for more; few
looks for garbage, none of them at what was imported; and cards of the catalogue are parsed once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

for library in ("OPENBLAS", "OMP", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """All modules are loaded by now, and stay."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def catalogue() -> Iterator[None]:
    """Shipped cards do not change while tests run."""
    from sim import catalog
    from sim.text import strict_yaml

    shipped, read = Path(catalog.__file__).parent, strict_yaml.read
    kept = cache(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            strict_yaml,
            "read",
            lambda path: (kept if shipped in Path(path).parents else read)(path),
        )
        yield
