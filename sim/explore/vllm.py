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


def commands(variant: Variant) -> list[str]:
    """A command for each pool of replicas, with what is not in its flags behind it."""
    work, tail = variant.workload, f" ({variant.workload.replicas} replicas)"
    mine = f"vllm serve MODEL {' '.join(flags(variant))}"
    if work.prefill is None:
        return [mine + (tail if work.replicas > 1 else "")]
    own, p = work.prefill, variant.parallel
    changed = {
        key: getattr(own, key) or getattr(work, key)
        for key in ("max_batch", "max_batched_tokens", "kv_tokens")
    }
    first = variant.model_copy(
        update={
            "parallel": p.model_copy(update={"tensor": own.tensor or p.tensor}),
            "workload": work.model_copy(update=changed),
        }
    )
    sends = "KV-cache sent on, which --kv-transfer-config is to say"
    return [
        f"vllm serve MODEL {' '.join(flags(first))} (prefills: {own.replicas} replicas, {sends})",
        f"{mine} (decodes: {work.replicas} replicas)",
    ]
