"""What accuracy a faster token costs: a figure of the report, for variants whose techniques change
what a model computes."""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.accuracy import Accuracy, Perplexities
from sim.facts.outcome import Outcome
from sim.facts.phases import Phases
from sim.results import charts
from sim.results.palette import escaped, variant_colours
from sim.results.statistics import statistics

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
        "</div>"
    )


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
