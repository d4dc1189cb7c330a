"""Where the data of a reproduction is from, by the name that a row gives it: none of it is shipped.

Files are looked for in `../shared`, beside the checkout.
"""

from __future__ import annotations

_AICONFIGURATOR = "ai-dynamo/aiconfigurator on GitHub, or the PyPI package aiconfigurator-core"
_NCCL_PERF = f"nccl_perf.parquet of {_AICONFIGURATOR}"
_VLLM_RUN = "a run of vLLM in LLMServingSim on GitHub; its config.json and meta.json belong to it"
_BOOKSIM = "made by running BookSim 2, a row a load"

ORIGINS = {
    "AzureLLMInferenceTrace_conv.csv.gz": "Azure/AzurePublicDataset on GitHub, 2023, gzipped",
    "mooncake_conversation_trace.jsonl.gz": "kvcache-ai/Mooncake on GitHub, gzipped",
    "RTXPRO6000__Llama-3.1-8B__vllm__requests.jsonl": _VLLM_RUN,
    "RTXPRO6000__Qwen3-32B__vllm__requests.jsonl": _VLLM_RUN,
    "measured_ttft_tpot.csv.gz": f"silicon_sample.csv of {_AICONFIGURATOR}, with columns clients, "
    "gpus and flag beside",
    "h100_sxm__comm__nccl__2.29.2__nccl_perf.parquet": _NCCL_PERF,
    "a100_sxm__comm__nccl__2.27.3__nccl_perf.parquet": _NCCL_PERF,
    "parsed_nccl_rccl_tests.csv": "public logs of nccl-tests and rccl-tests, as rows",
    "maxmin_flows.json": "made by running SimGrid 3.32 (CM02)",
    "astra_sim_collectives.csv": "made by running ASTRA-sim 2, analytical backends",
    "booksim2_uniform.csv": _BOOKSIM,
    "booksim2_permutation.csv": _BOOKSIM,
    "scalesim_compute.csv": "made by running SCALE-Sim 3.0.0, compute only",
    "the extra parquet": "pip install 'podscope[parquet]'",
}
