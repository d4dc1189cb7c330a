"""Latent attention in its equal forms, and their merge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.learn.mla_numpy import (
    Partial,
    _shares,
    absorb,
    expand,
    merge,
    mixed,
    naive,
)

D_L, D_R, D_N, D_V = 512, 64, 128, 128


def merge_gradient(parts: list[Partial], d_out) -> list[Partial]:
    """Gradients of a scalar with respect to each part's `out` and `lse`, given that to the merged
    out: d_out [B, H, D].

    out = sum w_i out_i, w = softmax(lse): d out_i = w_i d_out, d lse_i = w_i d_out . (out_i - out).
    """
    share, _ = _shares([part.lse for part in parts])
    whole = merge(parts).out
    return [
        Partial(weight[..., None] * d_out, weight * ((part.out - whole) * d_out).sum(axis=-1))
        for weight, part in zip(share, parts)
    ]


def rounded(values):
    """float32 numbers rounded to bfloat16, ties to even, and kept as float32, which NumPy can
    compute with."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class Case:
    """Random queries, a shared prefix, and a suffix of each query's own."""

    def __init__(self, heads, prefix, suffixes, seed=0):
        dice = np.random.default_rng(seed)
        normal = lambda *shape: dice.standard_normal(shape)  # noqa: E731
        self.q = normal(len(suffixes), heads, D_N + D_R)
        self.begin = np.concatenate([[0], np.cumsum(suffixes)]).astype(int)
        self.prefix = normal(prefix, D_L), normal(prefix, D_R)
        self.suffix = normal(self.begin[-1], D_L), normal(self.begin[-1], D_R)
        self.w = normal(heads, D_N, D_L) / D_L**0.5, normal(heads, D_L, D_V) / D_L**0.5

    def cast(self, to):
        new = object.__new__(Case)
        new.begin, new.q = self.begin, to(self.q)
        new.prefix, new.suffix, new.w = (
            tuple(map(to, pair)) for pair in (self.prefix, self.suffix, self.w)
        )
        return new

    def whole(self, b, prefix=None, suffix=None):
        """The context of query `b`; of latents, or of what they were expanded to."""
        prefix, suffix = prefix or self.prefix, suffix or self.suffix
        part = slice(self.begin[b], self.begin[b + 1])
        return tuple(np.concatenate([one, own[part]]) for one, own in zip(prefix, suffix))

    def naive(self):
        both = expand(*self.prefix, *self.w), expand(*self.suffix, *self.w)
        return np.concatenate(
            [naive(self.q[b : b + 1], *self.whole(b, *both)).out for b in range(len(self.q))]
        )

    def absorb(self):
        parts = [self.whole(b) for b in range(len(self.q))]
        begin = np.concatenate([[0], np.cumsum([len(latent) for latent, _ in parts])])
        latent, rope = (np.concatenate(each) for each in zip(*parts))
        return absorb(self.q, latent, rope, begin, *self.w).out

    def mixed(self):
        return mixed(self.q, expand(*self.prefix, *self.w), *self.suffix, self.begin, *self.w)


def apart(a, b):
    """Largest difference, of the largest value."""
    return float(np.abs(a.astype(float) - b.astype(float)).max() / np.abs(b.astype(float)).max())


# (heads, prefix, suffixes): prefixes of 0, 1, 127, 128 and 4096 tokens, suffixes of 0 to 512,
# batches of 1 to 512.
CASES = [
    (3, 0, [1]),
    (2, 0, [512, 1, 77]),
    (4, 1, [0, 1, 5, 512]),
    (2, 127, [0]),
    (3, 127, [0, 128, 511, 3, 64]),
    (2, 128, [512, 0, 1]),
    (1, 128, [*range(0, 512, 16), 512]),
    (1, 4096, [0, 512]),
    (2, 4096, [17]),
    (1, 1, [i % 7 for i in range(512)]),
    (1, 127, [(i * 37) % 90 for i in range(160)]),
]


@pytest.mark.parametrize(
    "heads, prefix, suffixes", CASES, ids=[f"{c[1]}+{max(c[2])}x{len(c[2])}" for c in CASES]
)
def test_the_three_forms_are_one(heads, prefix, suffixes):
    case = Case(heads, prefix, suffixes)
    due = case.naive()
    assert due.dtype == np.float64 and np.abs(due).max() > 0.01
    assert apart(case.absorb(), due) <= 1e-10
    assert apart(case.mixed(), due) <= 1e-10


@pytest.mark.parametrize("heads, prefix, suffixes", [c for c in CASES if len(c[2]) < 100], ids=str)
@pytest.mark.parametrize("to", [lambda a: a.astype(np.float16), rounded], ids=["fp16", "bf16"])
def test_in_halves_the_forms_agree_with_the_exact_one(heads, prefix, suffixes, to):
    """Inputs are halves, sums float32; what one kernel hands on to the next is fp16, or float32
    after bf16. Differences are of the largest value."""
    case = Case(heads, prefix, suffixes).cast(to)
    due = case.cast(lambda a: a.astype(float)).naive()
    for found in (case.naive(), case.absorb(), case.mixed()):
        assert apart(found, due) <= 2e-3


def partials(dice, parts, shape=(3, 2, 5), size=1.0):
    return [
        Partial(dice.standard_normal(shape), size * dice.standard_normal(shape[:2]))
        for _ in range(parts)
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
def test_a_merge_does_not_depend_on_how_it_is_done(seed, size):
    a, b, c = partials(np.random.default_rng(seed), 3, size=size)
    whole = merge([a, b, c])
    for other in (merge([merge([a, b]), c]), merge([a, merge([b, c])]), merge([c, a, b])):
        assert other.out == pytest.approx(whole.out, rel=1e-9, abs=1e-12)
        assert other.lse == pytest.approx(whole.lse, rel=1e-12)
    none = Partial(np.zeros_like(a.out), np.full_like(a.lse, -np.inf))
    assert (merge([a, none]).out == a.out).all() and (merge([none, a]).lse == a.lse).all()
    assert np.isneginf(merge([none, none]).lse).all() and not merge([none, none]).out.any()


def test_extreme_logits_stay_finite():
    dice = np.random.default_rng(1)
    for signs in ((1, -1), (1, 1), (-1, -1)):
        parts = [
            p._replace(lse=np.full_like(p.lse, sign * 1e4))
            for p, sign in zip(partials(dice, 2), signs)
        ]
        whole = merge(parts)
        assert np.isfinite(whole.out).all() and np.isfinite(whole.lse).all()
        for gradient in merge_gradient(parts, np.ones_like(whole.out)):
            assert np.isfinite(gradient.out).all() and np.isfinite(gradient.lse).all()


def test_gradients_are_those_of_small_steps():
    dice = np.random.default_rng(2)
    parts, weight, step = partials(dice, 3), dice.standard_normal((3, 2, 5)), 1e-6
    found = merge_gradient(parts, weight)
    for i, part in enumerate(parts):
        for field in ("out", "lse"):
            values = getattr(part, field)
            for at in np.ndindex(values.shape):
                ends = []
                for sign in (1, -1):
                    moved = values.copy()
                    moved[at] += sign * step
                    changed = [*parts[:i], part._replace(**{field: moved}), *parts[i + 1 :]]
                    ends.append((merge(changed).out * weight).sum())
                assert getattr(found[i], field)[at] == pytest.approx(
                    (ends[0] - ends[1]) / 2 / step, abs=1e-7
                )


def test_torch_computes_the_same():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra learn)")
    from sim.learn import mla as learned

    case = Case(3, 37, [0, 5, 64, 1])
    lengths = np.diff(case.begin)
    padded = [np.zeros((len(lengths), lengths.max(), own.shape[1])) for own in case.suffix]
    for whole, own in zip(padded, case.suffix):
        for b, length in enumerate(lengths):
            whole[b, :length] = own[case.begin[b] : case.begin[b + 1]]
    arrays = (case.q, *expand(*case.prefix, *case.w), *padded, lengths, *case.w)
    found = learned.mixed(*map(torch.tensor, arrays), (D_N + D_R) ** -0.5)
    assert apart(found.numpy(), case.naive()) <= 1e-10
    parts = [
        (
            torch.randn(2, 3, 4, requires_grad=True),
            torch.full((2, 3), sign * 1e4, requires_grad=True),
        )
        for sign in (1, -1)
    ]
    learned.merge(parts)[0].sum().backward()
    assert all(torch.isfinite(each.grad).all() for part in parts for each in part)


def test_nothing_to_attend_to_is_an_error():
    with pytest.raises(ValueError, match="query 1 has nothing to attend to"):
        Case(2, 0, [1, 0]).mixed()
    case = Case(2, 4, [1, 2])
    with pytest.raises(ValueError, match="3 numbers are due"):
        absorb(case.q, *case.suffix, np.array([0, 3]), *case.w)
