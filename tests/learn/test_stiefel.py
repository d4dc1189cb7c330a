"""Bases: laws of the SVD's, and that learning lowers what it says it lowers."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test-learn)")
pytest.importorskip("safetensors", reason="safetensors is not installed (make test-learn)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (make test-learn)")

import tiny_models as tiny  # noqa: E402

from sim.learn import stiefel  # noqa: E402
from sim.learn.bases import (  # noqa: E402
    Bases,
    LowRank,
    Moments,
    cut_or_grown,
    eigen_kq,
    losses,
    moments,
    random_bases,
    svd,
)
from sim.learn.decoder import WHOLE, Decoder  # noqa: E402
from sim.learn.huggingface import read_folder  # noqa: E402
from sim.learn.stiefel import Recipe, learn  # noqa: E402

WAYS = {"svd": svd, "eigen_kq": eigen_kq, "random": random_bases}
ORTHONORMAL = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return read_folder(tiny.write_folder(tmp_path_factory.mktemp("model")))[0]


@pytest.fixture
def x(model: Decoder) -> torch.Tensor:
    torch.manual_seed(0)
    return model.embed(torch.randint(0, model.sizes.vocabulary, (8, 24)))


@pytest.fixture
def of(model: Decoder, x: torch.Tensor) -> Moments:
    return moments(model, 0, x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_bases_are_orthonormal(of: Moments, way: str, rank: int) -> None:
    bases = WAYS[way](of, rank, rank)
    assert bases.ranks == (rank, rank)
    assert bases.off() <= ORTHONORMAL


def test_no_basis_keeps_more_of_k_and_v_than_the_svd(
    model: Decoder, x: torch.Tensor, of: Moments
) -> None:
    y = model.layer(0, x)
    best = losses(model, 0, x, y, svd(of, 4, 4))
    for seed in range(5):
        other = losses(model, 0, x, y, random_bases(of, 4, 4, seed))
        assert other.keys > best.keys
        assert other.values > best.values
    # What is left out is what the smaller eigenvalues hold.
    _, k, _ = model.projected(0, x)
    rest = torch.linalg.eigvalsh(of.keys)[:4].sum() / of.keys.trace()
    p = svd(of, 4, 4).keys
    off = (k @ p @ p.mT - k).square().sum() / k.square().sum()
    assert float(off) == pytest.approx(float(rest), rel=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_full_rank_is_the_model(model: Decoder, x: torch.Tensor, way: str) -> None:
    tokens = torch.randint(0, model.sizes.vocabulary, (2, 24))
    d = model.sizes.head_dim
    bases, inner = [], x
    for at in range(model.sizes.layers):
        bases.append(WAYS[way](moments(model, at, inner), d, d))
        inner = model.layer(at, inner)
    torch.testing.assert_close(model(tokens, LowRank(bases)), model(tokens), atol=1e-4, rtol=1e-5)


def test_bytes_are_ranks(model: Decoder, of: Moments) -> None:
    cache = LowRank([svd(of, 3, 5)] * model.sizes.layers)
    whole = WHOLE.bytes_per_token(model.sizes, 100)
    assert whole == 2 * 2 * tiny.LAYERS * tiny.KV_HEADS * tiny.D
    assert cache.bytes_per_token(model.sizes, 100) / whole == (3 + 5) / (2 * tiny.D)


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_learning_lowers_the_layers_error(
    model: Decoder, x: torch.Tensor, of: Moments, network: bool, bf16: bool
) -> None:
    y = model.layer(0, x)
    recipe = Recipe(steps=60, network=network, bf16=bf16, rate=5e-2)
    got = learn(model, 0, x, of, (4, 4), recipe)
    before, after = (losses(model, 0, x, y, each) for each in (eigen_kq(of, 4, 4), got.bases))
    assert after.layer_output_no_first < before.layer_output_no_first
    assert after.values > before.values  # what it does not care for
    assert got.bases.off() <= ORTHONORMAL
    assert len(got.curve) == 60
    assert not got.stopped


def test_a_search_on_the_manifold_itself_ends_no_better(
    model: Decoder, x: torch.Tensor, of: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """geoopt's Riemannian Adam moves P along the Stiefel manifold; ours moves A, and P = QR(A)."""
    geoopt = pytest.importorskip("geoopt", reason="geoopt is not installed (optional)")
    y, recipe = model.layer(0, x), Recipe(steps=60, rate=5e-2)
    ours = learn(model, 0, x, of, (4, 4), recipe)

    class OnManifold(torch.nn.Module):
        def __init__(self, start: Bases) -> None:
            super().__init__()
            kept = geoopt.Stiefel()
            self.keys, self.values = (
                geoopt.ManifoldParameter(p.clone(), manifold=kept) for p in start
            )

        def forward(self) -> Bases:
            return Bases(self.keys, self.values)

    monkeypatch.setattr(stiefel, "_Direct", OnManifold)
    monkeypatch.setattr(torch.optim, "Adam", geoopt.optim.RiemannianAdam)
    theirs = learn(model, 0, x, of, (4, 4), recipe)
    start, mine, other = (
        losses(model, 0, x, y, each).layer_output_no_first
        for each in (eigen_kq(of, 4, 4), ours.bases, theirs.bases)
    )
    assert other < start and mine < 1.05 * other
    assert theirs.bases.off() <= ORTHONORMAL


def test_learning_is_the_same_twice(model: Decoder, x: torch.Tensor, of: Moments) -> None:
    a, b = (learn(model, 0, x, of, (4, 3), Recipe(steps=5, seed=1)) for _ in range(2))
    assert torch.equal(a.bases.keys, b.bases.keys)
    assert a.curve == b.curve
    other = learn(model, 0, x, of, (4, 3), Recipe(steps=5, seed=2))
    assert a.curve != other.curve


def test_a_loss_that_is_not_finite_stops_with_the_last_good_bases(
    model: Decoder, x: torch.Tensor, of: Moments
) -> None:
    wild = learn(model, 0, x, of, (4, 4), Recipe(steps=9, rate=float("inf")))
    assert "nan at step 1" in wild.stopped
    assert len(wild.curve) == 1
    torch.testing.assert_close(
        wild.bases.keys @ wild.bases.keys.mT,
        (p := eigen_kq(of, 4, 4).keys) @ p.mT,
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize(("ranks", "name"), [((0, 4), "K"), ((4, 9), "V"), ((-1, 4), "K")])
def test_ranks_out_of_range(
    model: Decoder, x: torch.Tensor, of: Moments, ranks: tuple[int, int], name: str
) -> None:
    with pytest.raises(ValueError, match=f"rank -?[0-9]+ of {name} is not within 1 and head_dim"):
        learn(model, 0, x, of, ranks)


@pytest.mark.parametrize("rank", [1, 3, 4, 6, 8])
def test_bases_at_other_ranks_span_less_or_more(of: Moments, rank: int) -> None:
    bases = random_bases(of, 4, 4)
    other = cut_or_grown(bases, of, rank, rank)
    assert other.ranks == (rank, rank)
    assert other.off() <= ORTHONORMAL
    small, large = sorted((bases, other), key=lambda each: each.ranks)
    inside = large.keys @ (large.keys.mT @ small.keys)
    torch.testing.assert_close(inside, small.keys, atol=1e-5, rtol=0)


def test_the_first_token_is_not_learned_from(tmp_path: Path) -> None:
    """As in real models its activations can be so large that nothing else would count."""
    model = read_folder(tiny.write_folder(tmp_path))[0]
    torch.manual_seed(0)
    x = model.embed(torch.randint(0, model.sizes.vocabulary, (8, 24)))
    of = moments(model, 0, x)
    plain = learn(model, 0, x, of, (4, 4), Recipe(steps=3))
    model.layers[0].o_bias = None
    loud = x.clone()
    loud[:, 0] *= 1e3  # its norm is taken out before K and V, and stays in the residual
    same = learn(model, 0, loud, of, (4, 4), Recipe(steps=3))
    assert same.curve == pytest.approx(plain.curve, rel=1e-4)
