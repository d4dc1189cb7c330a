"""What a run of a shipped scenario has to show."""

from __future__ import annotations

import json
from pathlib import Path

import sim


def hold(result: sim.Result, folder: Path) -> None:
    """Its claims hold, and all is there that is saved of it."""
    assert result.expect
    assert [row["text"] for row in result.expect if not row["ok"]] == []
    result.save(folder)
    data = json.loads((folder / "result.json").read_text())
    assert {
        "scenario",
        "version",
        "seed",
        "fingerprint",
        "variants",
        "comparison",
        "expect",
        "warnings",
    } <= set(data)
    assert list(data["variants"]) == list(result.variants)
