"""Outcomes made by hand, for tests of what is drawn and written: no engine, no scenario."""

from __future__ import annotations

import numpy as np

from sim.facts.assumption import Assumption
from sim.facts.outcome import Outcome
from sim.facts.phases import Phases
from sim.facts.requests import RequestRecord, Requests
from sim.facts.serving import Serving
from sim.facts.span import Span, Use, fingerprint
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals

HBM, L2, LINK, MATRIX = 1.0e12, 4.0e12, 1.4e11, 3.0e14
# name, kind, microseconds, HBM share while it runs, bound
COMPUTE = [
    ("attn_norm", "norm", 2, 0.1, "latency"),
    ("qkv", "matmul", 14, 0.9, "HBM"),
    ("rope", "rope", 2, 0.05, "latency"),
    ("attention", "attention", 22, 0.85, "HBM"),
    ("o_proj", "matmul", 9, 0.9, "HBM"),
    ("attn_all_reduce", "all_reduce", 28, 0.05, "latency"),
    ("mlp_norm", "norm", 2, 0.1, "latency"),
    ("gate_up", "matmul", 41, 0.95, "HBM"),
    ("silu", "activation", 3, 0.2, "latency"),
    ("down", "matmul", 21, 0.95, "HBM"),
    ("mlp_all_reduce", "all_reduce", 28, 0.05, "latency"),
]
FETCHED = {"attn_all_reduce": ("gate_up",), "mlp_all_reduce": ("qkv", "attention")}


def outcome(
    *, steps: int = 2, layers: int = 4, prefetch: bool = False, requests: int = 0, prefix: str = ""
) -> Outcome:
    """A decode run on one rank that looks like a tensor-parallel transformer; `prefetch` hides
    reads in all-reduces.

    `prefix` stands before every op's name, to try names that would break HTML.
    """
    spans: list[Span] = []
    uses: list[Use] = []
    totals = Totals(steps=steps)
    now_us = 0.0
    held: set[str] = set()
    for step in range(steps):
        for layer in range(layers):
            for name, kind, us, share, bound in COMPUTE:
                hit = name in held
                us = (
                    us * (0.35 + 0.01 * ((layer + step) % 3))
                    if hit
                    else us + 0.1 * ((layer * 7 + step) % 5)
                )
                stream = "communication" if kind == "all_reduce" else "compute"
                start_s, end_s = now_us * 1e-6, (now_us + us) * 1e-6
                nbytes = share * HBM * us * 1e-6
                hbm, l2 = (0.0, nbytes) if hit else (nbytes, 0.0)
                link = 0.6 * LINK * us * 1e-6 if kind == "all_reduce" else 0.0
                flop = 2 * nbytes * 4 if kind == "matmul" else 0.0
                note = "read from L2" if hit else ""
                full = f"{prefix}layer {layer}.{name}"
                bound_now = "L2" if hit else bound
                spans.append(
                    Span(
                        f"rank 0/{stream}",
                        full,
                        kind,
                        start_s,
                        end_s,
                        hbm,
                        l2,
                        link,
                        flop,
                        bound_now,
                        note,
                    )
                )
                uses += [Use("rank 0/HBM", start_s, end_s, hbm / (end_s - start_s))] if hbm else []
                uses += [Use("rank 0/L2", start_s, end_s, l2 / (end_s - start_s))] if l2 else []
                uses += [Use("rank 0/link", start_s, end_s, 0.6 * LINK)] if link else []
                if prefetch and name in FETCHED:
                    at_us = now_us + 0.5
                    for target in FETCHED[name]:
                        take_us = 24.0 / len(FETCHED[name])
                        nbytes = 0.8 * HBM * take_us * 1e-6
                        who = f"{prefix}layer {layer}.prefetch {target}"
                        at_s, to_s = at_us * 1e-6, (at_us + take_us) * 1e-6
                        spans.append(
                            Span(
                                "rank 0/prefetch", who, "prefetch", at_s, to_s, nbytes, bound="HBM"
                            )
                        )
                        uses.append(Use("rank 0/HBM", at_s, to_s, 0.8 * HBM))
                        totals.prefetched_bytes += nbytes
                        at_us += take_us
                        held.add(target)
                held.discard(name) if hit else None
                now_us += us
    _sum(totals, spans, now_us * 1e-6)
    records = [
        _request(i, totals.seconds / max(requests, 1), 0.5 if prefetch else 1.0)
        for i in range(requests)
    ]
    tokens = sum(r.output_tokens for r in records) or steps * 4
    return Outcome(
        totals=totals,
        kind="requests" if requests else "decode",
        part=served() if requests else Phases(0.0, totals.seconds, 0),
        tokens=tokens,
        ranks=8,
        requests=Requests.of(records),
        timeline=Timeline(spans, uses, {"rank 0/HBM": HBM, "rank 0/L2": L2, "rank 0/link": LINK}),
        rates={"HBM": HBM, "L2": L2, "link": LINK, "matrix": MATRIX},
        assumptions=[
            Assumption("HBM bandwidth", "1.6 TB/s", "READ", "datasheet, table 2"),
            Assumption(
                "all-reduce launch latency",
                "28 µs",
                "FITTED",
                "so that the largest speed-up is 1.61; residual 0.3 %",
            ),
            Assumption(
                "L2 bandwidth",
                "4 TB/s",
                "INFER",
                "four times HBM, by analogy with the previous generation",
            ),
            Assumption("KV heads", "8", "RECALLED", "model card"),
        ],
        fingerprint=fingerprint(spans),
    )


def served(**more) -> Serving:
    """What one replica did that noted nothing but its requests."""
    facts = {
        "replicas": 1,
        "kv_share_s": 0.0,
        "kv_peak": 0.0,
        "preemptions": 0,
        "blocks_looked_up": 0,
        "blocks_found": 0,
        "drafted": 0,
        "accepted": 0,
        "gaps": np.zeros(1, np.int64),
        "gap_ends_s": np.ones(1),
        "bin_s": 1.0,
        "series": {"busy_s": np.zeros(0)},
        "slo_s": {},
        "chip_s": 1.0,
        "joules": None,
        "dollars": None,
        "most_on": 1,
    }
    return Serving(**facts | more)


def _sum(totals: Totals, spans: list[Span], seconds: float) -> None:
    totals.seconds, totals.ops = seconds, len(spans)
    for s in spans:
        stream = s.track.partition("/")[2]
        kinds = totals.span_s.setdefault(stream, {})
        kinds[s.kind] = kinds.get(s.kind, 0.0) + s.end_s - s.start_s
        if stream == "compute":
            limits = totals.limit_s.setdefault(s.kind, {})
            limits[s.bound] = limits.get(s.bound, 0.0) + s.end_s - s.start_s
        totals.flop += s.flop
        for capacity, nbytes in (("HBM", s.hbm_bytes), ("L2", s.l2_bytes), ("link", s.link_bytes)):
            totals.bytes[capacity] = totals.bytes.get(capacity, 0.0) + nbytes
    totals.matrix_flop = totals.flop


def _request(i: int, gap_s: float, scale: float) -> RequestRecord:
    arrival_s = i * gap_s
    scheduled_s = arrival_s + scale * 0.01 * (i % 7)
    first_s = scheduled_s + scale * (0.05 + 0.002 * (i % 11))
    output = 1 + i % 5 * 20
    return RequestRecord(
        i, arrival_s, 100 + i, output, scheduled_s, first_s, first_s + scale * 0.01 * (output - 1)
    )
