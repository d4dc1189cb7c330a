"""Readers of language models and the forward pass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test-learn)")
pytest.importorskip("gguf", reason="gguf is not installed (make test-learn)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (make test-learn)")

import tiny_models as tiny  # noqa: E402

from sim.learn.decoder import WHOLE, causal  # noqa: E402
from sim.learn.gguf_file import read_gguf  # noqa: E402
from sim.learn.huggingface import read_folder  # noqa: E402
from sim.learn.models import read_model  # noqa: E402
from sim.learn.perplexity import nats, perplexity  # noqa: E402

TEXT = "the cache of that layer"


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_gguf_and_checkpoint_are_one_model(tmp_path: Path, family: str) -> None:
    a, tokens_a = read_gguf(tiny.write_gguf(tmp_path / "a.gguf", family))
    b, tokens_b = read_folder(tiny.write_folder(tmp_path / "b", family))
    ids = tokens_a.encode(TEXT)
    assert ids == tokens_b.encode(TEXT)
    assert tokens_a.decode(ids) == TEXT
    x = torch.tensor([ids])
    torch.testing.assert_close(a(x), b(x), atol=2e-5, rtol=1e-5)
    assert (a.layers[0].q_bias is not None) == (family == "qwen2")
    assert (a.layers[0].q_norm is not None) == (family == "qwen3")


def test_causal_attention_by_hand() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    got = causal(q, k, v)
    for head in range(4):
        for t in range(5):
            scores = k[0, head // 2, : t + 1] @ q[0, head, t] / math.sqrt(8)
            want = scores.softmax(0) @ v[0, head // 2, : t + 1]
            torch.testing.assert_close(got[0, head, t], want)


def test_later_tokens_change_nothing(tmp_path: Path) -> None:
    model, tokens = read_gguf(tiny.write_gguf(tmp_path / "a.gguf"))
    x = torch.tensor([tokens.encode(TEXT)])
    changed = x.clone()
    changed[:, 8:] = 3
    torch.testing.assert_close(model(x)[:, :8], model(changed)[:, :8])
    assert not torch.allclose(model(x)[:, 8:], model(changed)[:, 8:])


def test_attention_sees_distances_alone(tmp_path: Path) -> None:
    """RoPE: a score depends on how far apart two tokens are."""
    model, _ = read_gguf(tiny.write_gguf(tmp_path / "a.gguf"))
    torch.manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8).expand(1, 1, 20, 8) for _ in range(2))
    scores = (model.turn(q) @ model.turn(k).mT)[0, 0]
    for apart in (0, 3, 7):
        line = scores.diagonal(-apart)
        torch.testing.assert_close(line, line[:1].expand_as(line))


def test_llama3_scales_low_frequencies_alone(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model, _ = read_folder(tiny.write_folder(tmp_path, rope_scaling=rope))
    # Turns within 64 tokens: 10.2, 1.02, 0.10, 0.01.
    smooth = (64 / (2 * math.pi * 10) - 1) / 3
    assert model.rope_factors is not None
    want = [1.0, 1 / (smooth + (1 - smooth) / 8), 8.0, 8.0]
    assert model.rope_factors.tolist() == pytest.approx(want)


def test_perplexity_of_a_model_that_knows_nothing(tmp_path: Path) -> None:
    model, _ = read_gguf(tiny.write_gguf(tmp_path / "a.gguf"))
    model.head = torch.zeros_like(model.head)
    found = nats(model, torch.randint(0, 200, (3, 16)), WHOLE)
    assert perplexity(found) == pytest.approx(len(tiny.vocabulary()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"odd": True}, "blk.1.ffn_up.weight is quantised as I8, .*requantise"),
        ({"arch": "mamba"}, "family 'mamba'; read are llama, qwen2, qwen3"),
        ({"tokenizer": "llama"}, "tokenizer is 'llama', and only byte-level BPE"),
        ({"pre": "strange"}, "text is cut by 'strange'; known are smollm"),
        ({"without": ("blk.2.attn_k.weight",)}, "no tensor 'blk.2.attn_k.weight', of 1 missing"),
    ],
)
def test_what_is_wrong_of_a_gguf_file(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_gguf(tiny.write_gguf(tmp_path / "a.gguf", **changes))


@pytest.mark.parametrize("share", [0.001, 0.2, 0.6, 0.99])
def test_a_truncated_gguf_file(tmp_path: Path, share: float) -> None:
    path = tiny.write_gguf(tmp_path / "a.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(int(len(whole) * share), 8)])
    with pytest.raises(ValueError, match=r"a\.gguf: damaged or truncated"):
        read_gguf(path)


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("a.gguf", "not a GGUF file"),
        ("empty", "no config.json there"),
        ("absent", "no model .*hub:OWNER/NAME"),
    ):
        with pytest.raises(ValueError, match=said):
            read_model(str(tmp_path / name))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "bert"}, "family 'bert'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "RoPE is scaled by 'yarn'"),
        ({"num_hidden_layers": 4}, r"no tensor 'model\.layers\.3"),
    ],
)
def test_what_is_wrong_of_a_checkpoint(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_folder(tiny.write_folder(tmp_path, **changes))


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \*\.safetensors there"):
        read_folder(folder)


def test_a_window_longer_than_the_model_attends_to(tmp_path: Path) -> None:
    model, _ = read_folder(tiny.write_folder(tmp_path, model_type="mistral", sliding_window=32))
    with pytest.raises(ValueError, match="longer than the 32"):
        model(torch.zeros(1, 40, dtype=torch.long))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_pass_equals_transformers(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tiny.write_folder(tmp_path, family)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours, tokens = read_folder(folder)
    x = torch.tensor([tokens.encode(TEXT)])
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-4, rtol=1e-4)
