"""`podscope new`: files to begin with, of a few lines, that run as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.text import plain, say, write

DEVICE = """\
# {name}: numbers without a source are yours. docs/devices.md says what each is, and how to tell
# how sure you are of it: hbm_bytes_per_s: {{value: 2 TB/s, range: [1.8 TB/s, 2.2 TB/s]}}
name: {name}
matrix_flop_per_s: {{bf16: 400 TFLOP/s, fp16: 400 TFLOP/s}}   # dense peak of each format
vector_flop_per_s: 12 TFLOP/s
hbm_bytes: 64 GiB
hbm_bytes_per_s: 2 TB/s       # peak
hbm_efficiency: 0.8           # of it that a kernel which streams reaches: a guess
matrix_efficiency: 0.7        # of the matrix peak that a large GEMM reaches: a guess
l2_bytes: 64 MiB
l2_bytes_per_s: 6 TB/s
kernel_overhead_s: 4 us       # launch, fill and drain of a GEMM or an attention
vector_overhead_s: 4 us       # of a norm, an activation
# What fills L2 ahead of use, and how sure you are of it
prefetch_bytes_per_s: {{value: 1 TB/s, range: [0.3 TB/s, 1.6 TB/s]}}
prefetch_overhead_s: {{value: 2 us, range: [1 us, 20 us]}}
"""
TOPOLOGY = """\
# {name}: chips and how they are wired; `podscope topology ./{file}` draws it
name: {name}
shape: torus                  # docs/network.md has all shapes
dims: [4, 4]
device: {device}
library: none                 # of collectives: what they cost beside the wires
link: {{bytes_per_s: 50 GB/s, latency_s: 1 us}}   # one way of one wire
"""
SCENARIO = """\
question: What does prefetching during all-reduce buy on {name}?
pod: {{topology: {topology}}}
model: llama3-8b
parallel: {{tensor: 4}}
# With few output tokens the prefill decides how long it takes
workload: {{kind: decode, batch: 16, prompt_tokens: 2048, output_tokens: 1024}}
variants:
  plain: {{}}
  preserve: {{techniques: [preserve]}}
"""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")

new = typer.Typer(no_args_is_help=True, help="Write a file to begin with, that runs as it is.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of what it is; also of the file.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Default: NAME.yaml, here.")]


@new.command()
def device(name: Name, out: Out = None) -> None:
    """A device card of about ten numbers of your own."""
    _written(name, out, DEVICE)


@new.command()
def topology(
    name: Name,
    out: Out = None,
    chip: Annotated[
        str, typer.Option("--device", metavar="DEVICE", help="A device's name, or its file.")
    ] = "h100_sxm",
) -> None:
    """A pod of 16 chips on a 4 x 4 torus."""
    from sim.catalog import device as card

    card(chip)  # that there is one is said before anything is written
    _written(name, out, TOPOLOGY, device=_beside(chip, out))


@new.command()
def scenario(
    name: Name,
    out: Out = None,
    pod: Annotated[
        str, typer.Option("--topology", metavar="TOPOLOGY", help="A pod's name, or its file.")
    ] = "dgx_h100",
) -> None:
    """A question with two variants."""
    from sim.catalog import pod as card

    card(pod)
    _written(name, out, SCENARIO, topology=_beside(pod, out))


def _beside(name: str, out: Path | None) -> str:
    """A file as another names it that is written to `out`: paths are from there."""
    if "/" not in name and Path(name).suffix not in (".yaml", ".yml"):
        return name
    path, folder = Path(name).absolute(), (out or Path()).absolute()
    folder = folder.parent if out else folder
    inside = path.is_relative_to(folder)
    return f"./{path.relative_to(folder)}" if inside else str(path)


def _written(name: str, out: Path | None, text: str, **parts: str) -> None:
    """Write the file; ValueError where the name is none, or something is there."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name: a letter, then letters, digits and any of _ . - are due"
        )
    file = out or Path(f"{name}.yaml")
    if file.exists():
        raise ValueError(f"{file} is there already, and is left alone; name another with --out")
    if not file.parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent}")
    write(file, text.format(name=name, file=file.name, **parts))
    say(plain(f"wrote {file}"))
