"""The settings of a variant as flags of `vllm serve`, as far as it has them."""

from __future__ import annotations

from sim.scenario import Variant

_KV = {"fp8": "fp8", "fp16": "auto", "bf16": "auto"}


def flags(variant: Variant) -> list[str]:
    """Flags of one replica, in the order of vLLM's own help; what has no flag there is left out."""
    work, parallel = variant.workload, variant.parallel
    said: list[str] = []

    def flag(name: str, value: object) -> None:
        if value not in (None, False, 1):
            said.extend([f"--{name}"] if value is True else [f"--{name}", str(value)])

    flag("tensor-parallel-size", parallel.tensor)
    flag("pipeline-parallel-size", parallel.pipeline)
    flag("data-parallel-size", parallel.data)
    flag("enable-expert-parallel", parallel.expert > 1)
    flag("max-num-seqs", work.max_batch)
    flag("max-num-batched-tokens", work.max_batched_tokens)
    flag("block-size", work.block_tokens if work.block_tokens != 16 else None)
    flag("gpu-memory-utilization", work.hbm_utilisation)
    if variant.precision.kv in _KV and _KV[variant.precision.kv] != "auto":
        flag("kv-cache-dtype", _KV[variant.precision.kv])
    said.append("--enable-prefix-caching" if work.prefix_caching else "--no-enable-prefix-caching")
    if work.policy == "chunked":
        said.append("--enable-chunked-prefill")
    return said
