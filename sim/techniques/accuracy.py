"""The accuracy of a variant, from the card that its techniques name: that of all that loses some,
together, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sim.catalog.files import is_there
from sim.catalog.kv_cards import KvCard, Other, Perplexity, card
from sim.facts.accuracy import Accuracy, Perplexities, Way
from sim.text.strict_yaml import nearest

LOW_RANK = "kv_low_rank"
_SORTS = {LOW_RANK: "low rank", "kv_quantised": "few bits", "kv_eviction": "few tokens"}
LOSSY = tuple(_SORTS)
_BASES = {
    "stiefel": "learned",
    "eigen_kq": "SVD of [K;Q] (EigenAttention)",
    "eigen_k": "SVD of K",
    "svd": "SVD of K",
    "random": "random bases",
}


def require_measured(name: str | None, measured: str | None) -> None:
    """ValueError if only one of the options `card` and `measured` is given, or the card has no such
    entry."""
    if (name is None) != (measured is None):
        raise ValueError("card and measured go together: the card, and the entry of its `others`")
    if name is not None and measured is not None and is_there("kv", name):
        _other(card(name), measured)


def _other(found: KvCard, name: str) -> Other:
    known = [other.name for other in found.others]
    for other in found.others:
        if other.name == name:
            return other
    there_are = f"it has {', '.join(known)}" if known else "it has none"
    raise ValueError(
        f"the card {found.name} measured no {name!r}{nearest(name, known)}; {there_are}"
    )


def is_lossy(chosen: Sequence[tuple[str, Any]]) -> bool:
    """Whether any of the techniques changes what the model computes."""
    return any(name in LOSSY for name, _ in chosen)


def accuracy_of(chosen: Sequence[tuple[str, Any]]) -> Accuracy | None:
    """What the last technique that names a measurement says of all of them; ValueError if what was
    measured is not what the variant has."""
    lossy = [(name, options) for name, options in chosen if name in LOSSY]
    if not lossy:
        return None
    name, options = lossy[-1]
    if options.card is None:
        return None
    found = card(options.card)
    if name == LOW_RANK:
        return _of(found, found.perplexity, ()) if len(lossy) == 1 else None
    other = _other(found, options.measured)
    was = [key for entry in other.techniques for key in entry]
    if was != [each for each, _ in lossy]:
        raise ValueError(
            f"{name}: what the card {found.name} measured as {other.name!r} is "
            f"{' and '.join(was)}, and this variant has {' and '.join(each for each, _ in lossy)}"
        )
    return _of(found, other.perplexity, tuple(_differences(other, lossy)))


def _of(found: KvCard, perplexity: Perplexity, differs: tuple[str, ...]) -> Accuracy:
    return Accuracy(
        found.name,
        found.model.name,
        perplexity.windows.tokens,
        *_pairs(perplexity),
        differs,
        {other.name: _way(other) for other in found.others},
    )


def _pairs(perplexity: Perplexity) -> tuple[Perplexities, Perplexities]:
    inside, outside = (
        Perplexities(pair.full, pair.compressed)
        for pair in (perplexity.in_domain, perplexity.out_of_domain)
    )
    return inside, outside


def _way(other: Other) -> Way:
    parts = [_SORTS[name] for entry in other.techniques for name in entry if name in _SORTS]
    sort = " and ".join(parts)
    if other.method is not None:
        sort += f", {_BASES[other.method]}"
    return Way(sort, other.ratio, *_pairs(other.perplexity))


def _differences(other: Other, lossy: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Options that were measured otherwise than the variant has them."""
    for entry, (name, options) in zip(other.techniques, lossy):
        for key, was in entry[name].items():
            here = getattr(options, key)
            if here is None and name == LOW_RANK and options.card is not None:
                found = card(options.card)
                if {*found.ranks.k, *found.ranks.v} != {was * found.model.head_dim}:
                    yield f"{name} with {key} {was:g} in all layers there, card {found.name} here"
            elif here != was:
                yield f"{name} with {key} {was} there, {here} here"


def notes(found: Accuracy | None, model: str) -> list[str]:
    """In what the accuracy is not that of the variant, and whose it is if not that of `model`."""
    if found is None:
        return []
    said = [f"accuracy was measured otherwise: {what}" for what in found.differs]
    if found.model != model:
        said.append(
            f"accuracy is that of {found.model}, in windows of {found.window_tokens:,} tokens; "
            f"sizes are those of {model}, which may lose more or less"
        )
    return said
