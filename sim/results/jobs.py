"""Numbers of jobs that issue collectives, and of the links they share; definitions stand in
`OF_JOBS`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

import numpy as np

from sim.facts.jobs import JobRecord, LinkUse
from sim.facts.outcome import Outcome
from sim.network.collectives import COLLECTIVES

OF_JOBS: dict[str, str] = {
    "mean_s": "mean time of the job's collectives, each from its start to the last rank's end",
    "first_s": "time of the job's first collective",
    "min_s": "time of the job's quickest collective",
    "max_s": "time of the job's slowest collective",
    "idle_s": "time of one of them with the healthy pod to itself: the closed form where all "
    "ranks go in step, else "
    "one played alone",
    "slowdown": "mean_s / idle_s",
    "bus_bandwidth_bytes_per_s": "nccl-tests' bus bandwidth: bytes / mean_s, times 2(n-1)/n "
    "for all_reduce, (n-1)/n "
    "for all_gather, reduce_scatter and all_to_all, 1 for broadcast, send_receive and send",
    "collectives": "collectives of the job that ended within the run",
    "ranks": "chips in the job's group",
    "rounds": "rounds of the algorithm",
    "bytes": "buffer of one rank",
}
OF_LINKS: dict[str, str] = {
    "busiest_link_utilisation": "bytes over the link / (its rate x makespan_s), of the link "
    "where that is highest",
    "mean_link_utilisation": "the same, mean over the links that carried anything",
    "links_used": "links (one direction each) and switch cores that carried anything",
    "link_bytes": "bytes over all links, once for each link crossed",
    "most_flows_on_a_link": "messages that were on one link at once, at most",
}


def tenants(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The numbers of each job, by name; times are left out of one in the background that ended
    nothing."""
    return {job.name: _numbers(job) for job in outcome.jobs}


def _numbers(job: JobRecord) -> dict[str, float]:
    facts = {
        "idle_s": job.idle_s,
        "collectives": float(len(job.instances)),
        "ranks": float(job.ranks),
    }
    facts |= {"rounds": float(job.rounds), "bytes": job.nbytes}
    if not job.instances:
        return facts
    times = np.array([each.end_s - each.start_s for each in job.instances])
    mean_s = float(times.mean())
    facts |= {
        "mean_s": mean_s,
        "first_s": float(times[0]),
        "min_s": float(times.min()),
        "max_s": float(times.max()),
    }
    bus = COLLECTIVES[job.collective].bus(job.ranks)
    return facts | {
        "slowdown": mean_s / job.idle_s,
        "bus_bandwidth_bytes_per_s": job.nbytes * bus / mean_s,
    }


def link_metrics(outcome: Outcome) -> dict[str, float]:
    """What the links of a run say as a whole; nothing where none was recorded."""
    wall_s, links = outcome.totals.seconds, outcome.links
    if not links or not wall_s:
        return {}
    shares = [share(link, wall_s) for link in links]
    return {
        "busiest_link_utilisation": shares[0],
        "mean_link_utilisation": sum(shares) / len(shares),
        "links_used": float(len(links)),
        "link_bytes": sum(link.moved_bytes for link in links),
        "most_flows_on_a_link": float(max(link.most_flows for link in links)),
    }


def share(link: LinkUse, wall_s: float) -> float:
    """Bytes over the link / (its rate x wall time)."""
    return link.moved_bytes / link.bytes_per_s / wall_s


def busiest(outcome: Outcome) -> str:
    """The fullest link, how many others are as full, and how full that is; '' where none was
    recorded."""
    wall_s, links = outcome.totals.seconds, outcome.links
    if not links or not wall_s:
        return ""
    top = share(links[0], wall_s)
    others = sum(share(link, wall_s) > top * (1 - 1e-6) for link in links) - 1
    return f"{links[0].name}{f' and {others:,} more' if others else ''}, {100 * top:.0f} %"


def links_csv(outcomes: Mapping[str, Outcome]) -> bytes | None:
    """The table of links, fullest first, one row a link and variant; None where no variant has
    recorded any."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["variant", "link", "GB/s", "bytes", "share_of_rate", "busy_share", "most_flows"]
    )
    rows = 0
    for variant, outcome in outcomes.items():
        wall_s = outcome.totals.seconds
        for link in outcome.links if wall_s else ():
            used, busy = share(link, wall_s), link.busy_s / wall_s
            writer.writerow(
                [
                    variant,
                    link.name,
                    link.bytes_per_s / 1e9,
                    link.moved_bytes,
                    used,
                    busy,
                    link.most_flows,
                ]
            )
            rows += 1
    return text.getvalue().encode() if rows else None
