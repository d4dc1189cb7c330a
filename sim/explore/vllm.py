"""The settings of a variant as flags of `vllm serve`, as far as it has them."""

from __future__ import annotations

from collections.abc import Iterator

from sim.scenario import Variant

_PLAIN = (None, "fp16", "bf16")  # formats that need no flag


def flags(variant: Variant) -> list[str]:
    """Flags of one replica, in the order of vLLM's own help; what has no flag there is left out,
    and what is its default."""
    work, parallel = variant.workload, variant.parallel
    said: list[str] = []

    def flag(name: str, value: object, default: object = None) -> None:
        if value not in (None, default):
            said.extend([f"--{name}", str(value)])

    flag("tensor-parallel-size", parallel.tensor, 1)
    flag("pipeline-parallel-size", parallel.pipeline, 1)
    flag("data-parallel-size", parallel.data, 1)
    if parallel.expert > 1:
        said.append("--enable-expert-parallel")
    flag("max-num-seqs", work.max_batch)
    flag("max-num-batched-tokens", work.max_batched_tokens)
    flag("block-size", work.block_tokens, 16)
    flag("gpu-memory-utilization", work.hbm_utilisation)
    if variant.precision.kv == "fp8":
        flag("kv-cache-dtype", "fp8")
    if variant.precision.weights == "fp8":
        flag("quantization", "fp8")
    said.append("--enable-prefix-caching" if work.prefix_caching else "--no-enable-prefix-caching")
    if work.policy == "chunked":
        said.append("--enable-chunked-prefill")
    return said


def commands(variant: Variant) -> list[str]:
    """A command for each pool of replicas, and behind it what is not in its flags."""
    work, p = variant.workload, variant.parallel
    beside = [*_unsaid(variant)]
    if work.prefill is None:
        count = [f"{work.replicas} replicas"] if work.replicas > 1 else []
        return [_command(variant, [*count, *beside])]
    own = work.prefill
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
    sends = "its KV-cache is sent on, which --kv-transfer-config is to say"
    return [
        _command(first, [f"prefills: {own.replicas} replicas", sends, *beside]),
        _command(variant, [f"decodes: {work.replicas} replicas", *beside]),
    ]


def _command(variant: Variant, beside: list[str]) -> str:
    tail = f" ({'; '.join(beside)})" if beside else ""
    return f"vllm serve MODEL {' '.join(flags(variant))}{tail}"


def _unsaid(variant: Variant) -> Iterator[str]:
    """What counts and has no flag."""
    weights, kv = variant.precision.weights, variant.precision.kv
    if weights not in (*_PLAIN, "fp8"):
        yield f"with a checkpoint in {weights}"
    if kv not in (*_PLAIN, "fp8"):
        yield f"no flag for a KV-cache in {kv}"
    for technique in variant.techniques:
        yield f"no flag for {technique.name}"
