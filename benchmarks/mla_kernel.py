"""TyphoonMLA's mixed decode against absorb alone, on a CUDA GPU, by the authors' protocol.

    python benchmarks/mla_kernel.py [--quick]

fp16; a buffer of 256 MB is zeroed before each run so that L2 is cold; 25 runs to warm up, 100 timed
by events, the median. Both are `sim.learn.mla`, compiled. Without torch or a GPU it says so. The
published speed-ups are of another machine (an Ascend 910B2), and stand beside for their shape, not
to be met.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from statistics import median

from sim.reproduce.typhoon_rows import BENCH

WARM_UP, TIMED, FLUSH_BYTES = 25, 100, 256 * 10**6
D_L, D_R, D_N, D_V = 512, 64, 128, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six of the 54 shapes")
    shapes = list(BENCH)[::9] if parser.parse_args().quick else list(BENCH)
    if not find_spec("torch"):
        print("not run: torch is not installed (extra learn)")
        return
    import torch

    if not torch.cuda.is_available():
        print("not run: there is no CUDA GPU")
        return
    print(f"{torch.cuda.get_device_name()}: ms of one layer's attention, median of {TIMED}")
    print("heads batch prefix suffix   absorb    mixed  speed-up  (910B2)")
    for shape in shapes:
        try:
            absorb_ms, mixed_ms = measured(shape.heads, shape.batch, shape.prefix, shape.suffix)
        except torch.cuda.OutOfMemoryError:
            print(
                f"{shape.heads:5} {shape.batch:5} {shape.prefix:6} {shape.suffix:6}   does not fit"
            )
            continue
        print(
            f"{shape.heads:5} {shape.batch:5} {shape.prefix:6} {shape.suffix:6} {absorb_ms:8.3f} "
            f"{mixed_ms:8.3f} "
            f"{absorb_ms / mixed_ms:9.2f} {BENCH[shape].typhoon / BENCH[shape].absorb:8.2f}"
        )


def measured(heads: int, batch: int, prefix: int, suffix: int) -> tuple[float, float]:
    """(absorb on everything, mixed) in ms."""
    import torch

    from sim.learn import mla

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.float16)

    q, w_k, w_v = normal(batch, heads, D_N + D_R), normal(heads, D_N, D_L), normal(heads, D_L, D_V)
    keys, values = normal(prefix, heads, D_N + D_R), normal(prefix, heads, D_V)
    latent, rope = normal(batch, prefix + suffix, D_L), normal(batch, prefix + suffix, D_R)
    own, whole = (
        torch.full((batch,), tokens, device="cuda") for tokens in (suffix, prefix + suffix)
    )
    tail, tail_rope = latent[:, prefix:].contiguous(), rope[:, prefix:].contiguous()
    scale = (D_N + D_R) ** -0.5
    absorb, mixed = torch.compile(mla.absorb), torch.compile(mla.mixed)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def timed(run) -> float:
        times = []
        for _ in range(WARM_UP + TIMED):
            flush.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        return median(times[WARM_UP:])

    return (
        timed(lambda: absorb(q, latent, rope, whole, w_k, w_v, scale)),
        timed(lambda: mixed(q, keys, values, tail, tail_rope, own, w_k, w_v, scale)),
    )


if __name__ == "__main__":
    main()
