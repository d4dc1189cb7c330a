"""Models from published `config.json` files: what is read, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sim import catalog
from sim.scenario import ScenarioError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-05,
}
QWEN2 = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN3 = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "max_position_embeddings": 40960,
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
PHI3 = {
    "model_type": "phi3",
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "max_position_embeddings": 131072,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "sliding_window": 131072,
    "vocab_size": 32064,
}
PHI3_SMALL = {
    "model_type": "phi3small",
    "blocksparse_block_size": 64,
    "blocksparse_num_local_blocks": 16,
    "blocksparse_vert_stride": 8,
    "dense_attention_every_n_layers": 2,
    "ff_dim_multiplier": None,
    "ff_intermediate_size": 14336,
    "hidden_act": "gegelu",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 131072,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 100352,
}
SMOLLM = {
    "model_type": "llama",
    "head_dim": 64,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "max_position_embeddings": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


DEEPSEEK = {
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "rope_scaling": {"type": "yarn"},
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3"},
}
KIMI = DEEPSEEK | {
    "model_type": "kimi_k2",
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "vocab_size": 163840,
    "n_routed_experts": 384,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 131072,
}
LITE = DEEPSEEK | {
    "quantization_config": None,
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "q_lora_rank": None,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_hidden_layers": 27,
    "vocab_size": 102400,
}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_hidden_layers": 48,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "use_sliding_window": False,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_hidden_layers": 36,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "attention_bias": True,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "lm_head",
        ],
    },
    "layer_types": ["sliding_attention", "full_attention"] * 18,
}


def config(tmp_path, data, text=None) -> str:
    path = tmp_path / "some-model" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text or json.dumps(data, indent=2))
    return str(path)


def alike(read, card) -> bool:
    """Whether two models are the same, whoever says so."""
    stored = read.stored._replace(told=card.stored.told)
    return dataclasses.replace(read, source=card.source, notes=(), stored=stored) == card


def without(data, *keys):
    return {key: value for key, value in data.items() if key not in keys}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("llama3-8b", LLAMA),
        ("qwen2-7b", QWEN2),
        ("qwen3-32b", QWEN3),
        ("phi-3-medium", PHI3),
        ("phi-3-small", PHI3_SMALL),
        ("smollm2-135m", SMOLLM),
        ("deepseek-v3", DEEPSEEK),
        ("kimi-k2", KIMI),
        ("deepseek-v2-lite", LITE),
        ("mixtral-8x7b", MIXTRAL),
        ("qwen3-30b-a3b", QWEN3_MOE),
        ("gpt-oss-120b", GPT_OSS),
    ],
)
def test_a_published_config_reads_as_the_catalogue_says(tmp_path, name, data):
    read = catalog.model(config(tmp_path, data))
    assert read.name == "some-model"
    expected = catalog.model(name)
    assert alike(dataclasses.replace(read, name=expected.name), expected)
    assert catalog.model(str(tmp_path / "some-model")) == read  # its folder will do


def test_config_defaults(tmp_path):
    bare = {
        k: v
        for k, v in LLAMA.items()
        if k not in ("num_key_value_heads", "tie_word_embeddings", "attention_bias")
    }
    model = catalog.model(config(tmp_path, bare))
    assert (model.kv_heads, model.head_dim, model.tied_embeddings, model.qkv_bias) == (
        32,
        128,
        False,
        False,
    )
    assert catalog.model(config(tmp_path, LLAMA | {"attention_bias": True})).qkv_bias
    assert catalog.model(config(tmp_path, LLAMA | {"sliding_window": 100})).attention == (
        "dense",
    )  # Llama has none


def test_sliding_window_only_where_it_is_used(tmp_path):
    def attention(data):
        model = catalog.model(config(tmp_path, data))
        return model.attention, model.window_tokens

    mistral = LLAMA | {"model_type": "mistral", "max_position_embeddings": 32768}
    assert attention(mistral | {"sliding_window": 4096}) == (("window",), 4096)
    assert attention(mistral | {"sliding_window": None}) == (("dense",), 0)
    assert attention(PHI3 | {"sliding_window": 2047}) == (("window",), 2047)
    used = QWEN2 | {"use_sliding_window": True, "sliding_window": 4096}
    assert attention(used) == (("dense",), 0)  # max_window_layers: all layers come first
    assert attention(used | {"max_window_layers": 26}) == (("dense",) * 26 + ("window",) * 2, 4096)
    listed = used | {"layer_types": ["full_attention", "sliding_attention"] * 14}
    assert attention(listed) == (("dense", "window"), 4096)


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({"num_experts": 64}, "num_experts"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"kv_lora_rank": 512}, "kv_lora_rank"),
        ({"text_config": {"hidden_size": 1}}, "text_config"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(tmp_path, extra, key):
    with pytest.raises(ValueError, match=rf"config\.json:\d+: {key}: .*not modelled yet"):
        catalog.model(config(tmp_path, LLAMA | extra))


def test_config_faults(tmp_path):
    with pytest.raises(ScenarioError) as caught:
        catalog.model(config(tmp_path, LLAMA | {"model_type": "lama"}))
    assert "did you mean 'llama'" in str(caught.value)
    broken = {k: v for k, v in LLAMA.items() if k != "vocab_size"} | {
        "hidden_size": "4096",
        "num_hidden_layers": 0,
    }
    with pytest.raises(ScenarioError) as caught:
        catalog.model(config(tmp_path, broken))
    assert {fault.key for fault in caught.value.faults} == {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
    }
    for text in ('{"model_type": "llama", "model_type": "llama"}', "{", "[]", '"x"'):
        with pytest.raises(ScenarioError):
            catalog.model(config(tmp_path, {}, text))
    with pytest.raises(ScenarioError, match="cannot be read"):
        catalog.model(str(tmp_path / "nowhere" / "config.json"))


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        (DEEPSEEK | {"moe_layer_freq": 2}, "moe_layer_freq", "only 1"),
        (QWEN3_MOE | {"mlp_only_layers": [3]}, "mlp_only_layers", "not modelled yet"),
        (QWEN3_MOE | {"kv_lora_rank": 512}, "kv_lora_rank", "not modelled yet"),
        (DEEPSEEK | {"n_shared_experts": "one"}, "n_shared_experts", "a whole number is due"),
        (DEEPSEEK | {"n_shared_experts": -1}, "n_shared_experts", "a whole number is due"),
        (DEEPSEEK | {"attention_bias": True}, "attention_bias", "only false"),
        (DEEPSEEK | {"index_topk": 2048}, "index_topk", "sparse attention is not modelled yet"),
        (QWEN3_MOE | {"decoder_sparse_step": 2}, "decoder_sparse_step", "only 1"),
        (
            QWEN3_MOE | {"num_local_experts": 64},
            "num_experts",
            "128 here, but num_local_experts is 64",
        ),
        (GPT_OSS | {"attention_bias": False}, "attention_bias", "only true"),
        (
            GPT_OSS | {"experts_per_token": 8},
            "experts_per_token",
            "8 here, but num_experts_per_tok is 4",
        ),
        (
            GPT_OSS | {"layer_types": ["full_attention"] * 35},
            "layer_types",
            "36 layers is due, not 35",
        ),
        (without(GPT_OSS, "sliding_window"), "sliding_window", "this key is missing"),
        (without(MIXTRAL, "num_local_experts"), "num_local_experts", "this key is missing"),
        ({"model_type": "kimi_k25"}, "text_config", "this key is missing"),
        ({"model_type": "kimi_k25", "text_config": 3}, "text_config", "a mapping is due, not 3"),
        (MIXTRAL | {"num_experts_per_tok": 9}, "num_experts_per_tok", "9 of 8 experts"),
    ],
)
def test_faults_of_experts(tmp_path, data, key, words):
    with pytest.raises(ScenarioError, match=rf"config\.json:\d+: {key}: .*{words}"):
        catalog.model(config(tmp_path, data))


def test_a_number_under_the_name_of_another_family(tmp_path):
    expected = catalog.model(config(tmp_path, QWEN3_MOE))
    renamed = without(QWEN3_MOE, "num_experts") | {"num_local_experts": 128}
    assert catalog.model(config(tmp_path, renamed)) == expected
    expected = catalog.model(config(tmp_path, GPT_OSS))
    assert (
        catalog.model(
            config(tmp_path, without(GPT_OSS, "num_experts_per_tok") | {"experts_per_token": 4})
        )
        == expected
    )


def test_gpt_oss_alternates_where_its_layers_are_not_listed(tmp_path):
    listed = catalog.model(config(tmp_path, GPT_OSS))
    assert listed.attention == ("window", "dense")
    assert catalog.model(config(tmp_path, without(GPT_OSS, "layer_types"))) == listed
    assert catalog.model(config(tmp_path, GPT_OSS | {"sliding_window": None})).attention == (
        "dense",
    )


def test_the_text_of_a_multimodal_kimi(tmp_path):
    outer = {
        "model_type": "kimi_k25",
        "num_hidden_layers": 1,
        "vision_config": {"vt_hidden_size": 1152},
    }
    text = KIMI | {"max_position_embeddings": 262144}
    expected = dataclasses.replace(catalog.model("kimi-k2"), name="some-model", max_tokens=262144)
    read = catalog.model(config(tmp_path, outer | {"text_config": text}))
    assert alike(read, expected)
    assert any("only the text model" in note for note in read.notes)
    path = config(tmp_path, outer | {"text_config": text | {"num_hidden_layers": 0}})
    with pytest.raises(ScenarioError) as caught:
        catalog.model(path)
    fault = caught.value.faults[0]  # the line of the key within, not of its namesake above
    assert (
        (tmp_path / "some-model" / "config.json")
        .read_text()
        .splitlines()[fault.line - 1]
        .endswith('layers": 0,')
    )


# As published, in 1e9. DeepSeek and OpenAI leave out the embedding, of which a token reads one row.
ACTIVE = {
    "deepseek-v3": (36.6, False),  # its README_WEIGHTS.md
    "deepseek-r1": (36.6, False),
    "deepseek-v2-lite": (2.4, False),
    "gpt-oss-120b": (
        5.1,
        False,
    ),  # that the embedding is left out is from memory, and the sum says so
    "gpt-oss-20b": (3.6, False),
    "kimi-k2": (32, True),
    "mixtral-8x7b": (12.9, True),
    "qwen3-30b-a3b": (3.3, True),
    "qwen3-235b-a22b": (22, True),
}


@pytest.mark.parametrize(
    "name", [name for name in catalog.names("models") if catalog.model(name).experts]
)
def test_what_a_token_meets_is_what_is_published(name):
    model, (published, embedding) = catalog.model(name), ACTIVE[name]
    found = model.active_parameters - (0 if embedding else model.vocab * model.hidden)
    assert found == pytest.approx(published * 1e9, rel=0.03)


@pytest.mark.parametrize(
    ("kind", "sizes", "more", "billions"),
    [  # hidden, MLP, layers, heads, KV heads, vocabulary; as published
        ("granite", (4096, 12800, 40, 32, 8, 49155), {"tie_word_embeddings": True}, 8.17),
        ("cohere", (8192, 22528, 40, 64, 64, 256000), {"use_qk_norm": False}, 34.98),
        ("smollm3", (2048, 11008, 36, 16, 4, 128256), {}, 3.08),
        ("seed_oss", (5120, 27648, 64, 80, 8, 155136), {"head_dim": 128}, 36.15),
        ("gemma", (3072, 24576, 28, 16, 16, 256000), {"head_dim": 256}, 8.54),
        (
            "gemma2",
            (3584, 14336, 42, 16, 8, 256000),
            {"head_dim": 256, "sliding_window": 4096},
            9.24,
        ),
        (
            "gemma3_text",
            (5376, 21504, 62, 32, 16, 262208),
            {"head_dim": 128, "sliding_window": 1024},
            27.0,
        ),
    ],
)
def test_families_have_the_parameters_that_are_published(tmp_path, kind, sizes, more, billions):
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    given = {"model_type": kind, "max_position_embeddings": 8192} | dict(zip(keys, sizes)) | more
    model = catalog.model(config(tmp_path, given))
    assert model.parameters / 1e9 == pytest.approx(billions, rel=3e-3)
    window = more.get("sliding_window", 0)
    period = {"gemma2": 2, "gemma3_text": 6}.get(kind, 1)
    assert model.window_tokens == window
    assert model.attention == (*["window"] * (period - 1), "dense")
    if kind == "gemma3_text":  # as the text of a model that reads images
        outer = {"model_type": "gemma3", "text_config": given, "vision_config": {"hidden_size": 1}}
        assert catalog.model(config(tmp_path, outer)).parameters == model.parameters


@pytest.mark.parametrize(
    ("quantised", "beside", "parts"),
    [
        ({"quant_method": "fp8"}, None, ("fp8", "fp8", "fp8")),
        ({"quant_method": "awq", "bits": 4}, None, ("int4", "int4", "int4")),
        ({"quant_method": "gptq", "bits": 8}, None, ("int8", "int8", "int8")),
        (
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
            None,
            ("", "fp4", "fp4"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}
                },
                "ignore": [
                    "re:.*self_attn.*",
                    "re:.*shared_experts.*",
                    "re:.*mlp\\.(gate|up|down)_proj",
                ],
            },
            None,
            ("", "", "int4"),
        ),
        (
            None,
            {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["*self_attn*"]}},
            ("", "fp4", "fp4"),
        ),
    ],
)
def test_formats_by_part_of_the_model(tmp_path, quantised, beside, parts):
    path = config(tmp_path, QWEN3_MOE | ({"quantization_config": quantised} if quantised else {}))
    other = tmp_path / "some-model" / "hf_quant_config.json"
    if beside:
        other.write_text(json.dumps(beside))
    model = catalog.model(path)
    attention, mlp, experts = parts
    # A model with experts in every layer, none of them shared, has no other MLP.
    assert model.stored[:3] == (attention, "", experts)
    dense = catalog.model(
        config(tmp_path, QWEN3 | ({"quantization_config": quantised} if quantised else {}))
    )
    assert dense.stored[:3] == (attention, mlp, "")


def test_a_format_that_is_not_known_is_said(tmp_path):
    model = catalog.model(config(tmp_path, LLAMA | {"quantization_config": {"quant_method": "x9"}}))
    assert model.stored[:3] == ("", "", "") and "x9 are not known" in model.notes[0]
