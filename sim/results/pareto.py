"""What accuracy a faster token costs: a figure of the report, for variants whose techniques change
what a model computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sim.facts.accuracy import Accuracy, Perplexities
from sim.facts.outcome import Outcome
from sim.facts.phases import Phases
from sim.results import charts
from sim.results.palette import escaped, variant_colours
from sim.results.statistics import statistics

_LEAST_LOST = 0.01  # per cent of perplexity: below it a logarithmic axis shows only noise
_DOMAINS = {
    "in_domain": "Perplexity on text like that of the calibration",
    "out_of_domain": "Perplexity on other text",
}


def pareto_section(outcomes: Mapping[str, Outcome]) -> str:
    """Perplexity over the mean time per output token, by variant, and which variants no other
    betters in both; nothing where no card says what a variant costs.

    A variant that changes nothing of the model has the perplexity of the whole one, if all cards
    are of one model and agree on it.
    """
    known = {name: one.accuracy for name, one in outcomes.items() if one.accuracy}
    times = {name: tpot_s(one) for name, one in outcomes.items()}
    if not known:
        return ""
    models = dict.fromkeys((found.model, found.window_tokens) for found in known.values())
    colours = variant_colours(outcomes)
    figures, whole = [], set[str]()
    for domain, title in _DOMAINS.items():
        points = {
            name: _at(times[name], getattr(found, domain).compressed)
            for name, found in known.items()
        }
        for name, value in _whole(outcomes, known, domain).items():
            points[name] = _at(times[name], value)
            whole.add(name)
        shown = {name: point for name, point in points.items() if point}
        figures.append(charts.scatter(shown, colours, title, "", "TPOT, mean, in ms"))
    names = charts.legend([(name, colours[name]) for name in outcomes if name in {*known, *whole}])
    measured = " and ".join(
        f"{escaped(model)}, in windows of {tokens:,} tokens" for model, tokens in models
    )
    several = " Perplexities of different models cannot be compared." if len(models) > 1 else ""
    unknown = [escaped(name) for name in outcomes if name not in {*known, *whole}]
    absent = f" Of {', '.join(unknown)} no accuracy is known." if unknown else ""
    return (
        '<h2>Accuracy and speed</h2><p class="soft">Lower is better in both. Perplexity was '
        f"measured on {measured}; times are those of this run.{several} The line joins variants "
        f'that no other betters in both.{absent}</p>{names}<div class="pair">{"".join(figures)}'
        f"</div>{''.join(map(_all_ways, _by_model(known.values()).values()))}"
    )


def pareto_sentence(outcomes: Mapping[str, Outcome]) -> str:
    """Which variants no other betters in both speed and accuracy; "" where accuracies are unknown
    or not of one model."""
    known = {name: one.accuracy for name, one in outcomes.items() if one.accuracy}
    if len({(one.model, one.window_tokens) for one in known.values()}) != 1:
        return ""
    values = {name: found.in_domain.compressed for name, found in known.items()}
    values |= _whole(outcomes, known, "in_domain")
    times = {name: tpot_s(outcomes[name]) for name in values}
    points = {name: (time, values[name]) for name, time in times.items() if time is not None}
    model = next(iter(known.values())).model
    told = ", ".join(f"{name} ({points[name][1]:.2f})" for name in charts.unbettered(points))
    return f"No other is better in both TPOT and perplexity (of {model}, in domain) than {told}."


def _by_model(known: Iterable[Accuracy]) -> dict[tuple[str, int], Accuracy]:
    """One for each model, with the ways of all its cards."""
    found: dict[tuple[str, int], Accuracy] = {}
    for one in known:
        key = one.model, one.window_tokens
        ways = {**found[key].ways, **one.ways} if key in found else one.ways
        found[key] = one._replace(ways=ways)
    return {key: one for key, one in found.items() if one.ways}


def _all_ways(of: Accuracy) -> str:
    """All ways to a smaller cache that were measured on a model: what each loses over the bytes
    that are left, and the same as a table."""
    ways = dict(sorted(of.ways.items(), key=lambda pair: (-pair[1].share, pair[0])))
    sorts = list(dict.fromkeys(way.sort for way in of.ways.values()))
    colours = variant_colours(sorts)
    figures = [
        charts.scatter(
            {
                name: (100 * way.share, max(_lost(getattr(way, domain)), _LEAST_LOST))
                for name, way in ways.items()
            },
            {name: colours[way.sort] for name, way in ways.items()},
            title.replace("Perplexity", "Perplexity above the whole cache's"),
            "per cent",
            "KV-cache read a step, per cent of that of 16 bits",
            wide=860,
            high=600,
        )
        for domain, title in _DOMAINS.items()
    ]
    lines = "".join(
        f"<tr><td>{escaped(name)}</td><td>{escaped(way.sort)}</td>"
        f"<td class=num>{100 * (1 - way.share):.1f} %</td>"
        + "".join(
            f"<td class=num>{pair.compressed:,.2f}</td><td class=ratio>+{_lost(pair):,.2f} %</td>"
            for pair in (way.in_domain, way.out_of_domain)
        )
        + "</tr>"
        for name, way in ways.items()
    )
    head = (
        "<tr><th>way</th><th>sort</th><th class=num>bytes saved</th>"
        "<th class=num colspan=2>perplexity in domain</th>"
        "<th class=num colspan=2>out of domain</th></tr>"
    )
    return (
        f"<h2>Ways to a smaller KV-cache, measured on {escaped(of.model)}</h2>"
        f'<p class="soft">In windows of {of.window_tokens:,} tokens, whatever this run is of. '
        "Lower is better in both: a decode step reads so much of the cache, and so much perplexity "
        f"is lost for it; less than {_LEAST_LOST:g} per cent stands at that. Eviction is of the "
        "tokens of a whole window, and looks cheap in a short one. The line joins ways that no "
        f"other betters in both.</p>{charts.legend(colours.items())}{''.join(figures)}"
        f"<details><summary>The same as a table</summary><table>{head}{lines}</table></details>"
    )


def _lost(pair: Perplexities) -> float:
    """Perplexity above that of the whole cache, in per cent of it."""
    return 100 * (pair.compressed / pair.full - 1)


def _at(seconds: float | None, perplexity: float) -> tuple[float, float] | None:
    return None if seconds is None else (seconds * 1e3, perplexity)


def _whole(
    outcomes: Mapping[str, Outcome], known: Mapping[str, Accuracy], domain: str
) -> dict[str, float]:
    """Perplexity of those that compute what the model does."""
    pairs: list[Perplexities] = [getattr(found, domain) for found in known.values()]
    full = {pair.full for pair in pairs}
    if len(full) > 1 or len({found.model for found in known.values()}) > 1:
        return {}
    exact = [name for name, one in outcomes.items() if not one.lossy]
    return dict.fromkeys(exact, full.pop())


def tpot_s(outcome: Outcome) -> float | None:
    """Mean time per output token; None where there is none."""
    if isinstance(outcome.part, Phases):
        steps = outcome.part.decode_steps
        return outcome.part.decode_s / steps if steps else None
    return statistics(outcome.requests).get("tpot_mean_s") if len(outcome.requests) else None
