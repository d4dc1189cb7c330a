"""Numbers of jobs that issue collectives, and of the links they share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sim.facts.jobs import JobRecord, LinkUse
from sim.facts.outcome import Outcome
from sim.network.collectives import COLLECTIVES
from sim.results.metric import Metric, measured, table_of


def _timed(of: Callable[[np.ndarray, JobRecord], Any]) -> Callable[[JobRecord], float | None]:
    """A figure of the times of a job's collectives; None of one that ended nothing."""

    def value(job: JobRecord) -> float | None:
        times = np.array([each.end_s - each.start_s for each in job.instances])
        return float(of(times, job)) if len(times) else None

    return value


JOBS = table_of(
    [
        Metric(
            name="mean_s",
            unit="s",
            better="lower",
            label="mean",
            of="mean time of the job's collectives, each from its start to the last rank's end",
            value=_timed(lambda times, _: times.mean()),
        ),
        Metric(
            name="first_s",
            unit="s",
            better="lower",
            label="first",
            of="time of the job's first collective",
            value=_timed(lambda times, _: times[0]),
        ),
        Metric(
            name="min_s",
            unit="s",
            better="lower",
            label="quickest",
            of="time of the job's quickest collective",
            value=_timed(lambda times, _: times.min()),
        ),
        Metric(
            name="max_s",
            unit="s",
            better="lower",
            label="slowest",
            of="time of the job's slowest collective",
            value=_timed(lambda times, _: times.max()),
        ),
        Metric(
            name="idle_s",
            unit="s",
            better="lower",
            label="alone",
            of="time of one of them with the healthy pod to itself: the closed form where all "
            "ranks go in step, else one played alone",
            value=lambda job: job.idle_s,
        ),
        Metric(
            name="slowdown",
            unit="x",
            better="lower",
            label="slow-down",
            of="mean_s / idle_s",
            value=_timed(lambda times, job: times.mean() / job.idle_s),
        ),
        Metric(
            name="bus_bandwidth_bytes_per_s",
            unit="B/s",
            better="higher",
            label="bus bandwidth",
            of="nccl-tests' bus bandwidth: bytes / mean_s, times 2(n-1)/n for all_reduce, (n-1)/n "
            "for all_gather, reduce_scatter and all_to_all, 1 for broadcast, send_receive and send",
            value=_timed(
                lambda times, job: (
                    job.nbytes * COLLECTIVES[job.collective].bus(job.ranks) / times.mean()
                )
            ),
        ),
        Metric(
            name="collectives",
            unit="count",
            better="",
            label="collectives",
            of="collectives of the job that ended within the run",
            value=lambda job: len(job.instances),
        ),
        Metric(
            name="ranks",
            unit="count",
            better="",
            label="chips",
            of="chips in the job's group",
            value=lambda job: job.ranks,
        ),
        Metric(
            name="rounds",
            unit="count",
            better="",
            label="rounds",
            of="rounds of the algorithm",
            value=lambda job: job.rounds,
        ),
        Metric(
            name="bytes",
            unit="B",
            better="",
            label="bytes",
            of="buffer of one rank",
            value=lambda job: job.nbytes,
        ),
    ]
)


def jobs(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The numbers of each job, by name; times are left out of one in the background that ended
    nothing."""
    return {job.name: measured(JOBS, job) for job in outcome.part.jobs}


def wall_parts(outcome: Outcome) -> dict[tuple[str, str], float]:
    """The wall time by what the job that ends last did, and waited for."""
    mine = [job for job in outcome.part.jobs if job.instances and not job.background]
    if not mine:
        return {}
    last = max(mine, key=lambda job: job.instances[-1].end_s)
    took_s = sum(each.end_s - each.start_s for each in last.instances)
    ideal_s = last.idle_s * len(last.instances)
    return {
        (f"{last.name} with the healthy pod to itself", ""): ideal_s,
        (f"{last.name} beside others, late ranks and faults", ""): took_s - ideal_s,
        (f"{last.name} before and between its collectives", ""): (outcome.totals.seconds - took_s),
    }


def shares(outcome: Outcome) -> list[float]:
    """Bytes over each link / (its rate x wall time), fullest first."""
    seconds = outcome.totals.seconds
    return [share(link, seconds) for link in outcome.part.links] if seconds else []


def _of_links(of: Callable[[list[float], Outcome], float]) -> Callable[[Outcome], float | None]:
    def value(outcome: Outcome) -> float | None:
        found = shares(outcome)
        return of(found, outcome) if found else None

    return value


LINKS = table_of(
    [
        Metric(
            name="busiest_link_utilisation",
            unit="share",
            better="",
            label="busiest link in use",
            of="bytes over the link / (its rate x makespan_s), of the link where that is highest",
            value=_of_links(lambda found, _: found[0]),
        ),
        Metric(
            name="mean_link_utilisation",
            unit="share",
            better="",
            label="links in use, on the whole",
            of="the same, mean over the links that carried anything",
            value=_of_links(lambda found, _: sum(found) / len(found)),
        ),
        Metric(
            name="links_used",
            unit="count",
            better="",
            label="links used",
            of="links (one direction each) and switch cores that carried anything",
            value=_of_links(lambda found, _: len(found)),
        ),
        Metric(
            name="link_bytes",
            unit="B",
            better="",
            label="carried, over all links",
            of="bytes over all links, once for each link crossed",
            value=_of_links(lambda _, o: sum(link.moved_bytes for link in o.part.links)),
        ),
        Metric(
            name="most_flows_on_a_link",
            unit="count",
            better="",
            label="most messages on a link",
            of="messages that were on one link at once, at most",
            value=_of_links(lambda _, o: max(link.most_flows for link in o.part.links)),
        ),
    ]
)


def share(link: LinkUse, wall_s: float) -> float:
    """Bytes over the link / (its rate x wall time)."""
    return link.moved_bytes / link.bytes_per_s / wall_s


def busiest(outcome: Outcome) -> str:
    """The fullest link, how many are as full, and how full that is; '' if none was recorded."""
    found = shares(outcome)
    if not found:
        return ""
    others = sum(each > found[0] * (1 - 1e-6) for each in found) - 1
    more = f" and {others:,} more" if others else ""
    return f"{outcome.part.links[0].name}{more}, {100 * found[0]:.0f} %"


def links_csv(outcomes: Mapping[str, Outcome]) -> dict[str, bytes]:
    """The table of links, fullest first, a row a link and variant; nothing if none recorded any."""
    head = ("variant", "link", "GB/s", "bytes", "share_of_rate", "busy_share", "most_flows")
    rows = [
        (
            variant,
            link.name,
            link.bytes_per_s / 1e9,
            link.moved_bytes,
            share(link, outcome.totals.seconds),
            link.busy_s / outcome.totals.seconds,
            link.most_flows,
        )
        for variant, outcome in outcomes.items()
        if outcome.totals.seconds
        for link in outcome.part.links
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return {"links.csv": text.getvalue().encode()} if rows else {}
