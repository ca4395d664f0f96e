"""The encoder against transformers' own models on the same weights: values and gradients, packed, padded and single."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from encoder_oracles import KINDS, RAGGED, assert_gradients_agree, expected, oracle, relative, save, sequences

from modernbert import encoder_to_hf, from_padded, load_encoder, pack, resolve, unpack
from modernbert.attention import force
from modernbert.kernels import onednn

FORWARD = 1e-4  # absolute, float32
GRADIENT = 1e-3  # relative to the largest entry of the gradient


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["flash-cpu", "sdpa", "reference"])
def test_packed_equals_transformers(kind: str, backend: str, tmp_path: Path) -> None:
    model = oracle(kind)
    encoder = load_encoder(save(model, tmp_path))
    rows = sequences((*RAGGED, 300, 5, 5))
    with torch.no_grad(), force(backend):
        found = encoder(pack(rows))
        assert (found - expected(model, rows)).abs().max() < FORWARD


@pytest.mark.parametrize(
    ("by_onednn", "wanted"), [(False, {"aten::mm", "aten::gelu_"}), (True, {"mkldnn::_linear_pointwise"})]
)
@pytest.mark.parametrize("kind", KINDS)
def test_inference_copies_no_bias_and_keeps_nothing_for_a_gradient(
    kind: str, by_onednn: bool, wanted: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes it quick on a CPU, by either library."""
    monkeypatch.setattr(onednn, "pays", lambda: by_onednn)
    model = oracle(kind)
    encoder = load_encoder(save(model, tmp_path))
    rows = sequences((5, 5, 9))
    with torch.inference_mode(), torch.profiler.profile() as noted:
        found = encoder(pack(rows))
    ran = {event.key for event in noted.key_averages()}
    assert wanted <= ran
    assert not {"aten::addmm", "aten::gelu"} & ran
    assert not by_onednn or not {"aten::mm", "aten::gelu_"} & ran
    with torch.no_grad():
        assert (found - expected(model, rows)).abs().max() < FORWARD


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_transformers(kind: str, tmp_path: Path) -> None:
    model = oracle(kind)
    encoder = load_encoder(save(model, tmp_path))
    rows = sequences((*RAGGED, 300, 5, 5))
    weight = torch.randn(sum(map(len, rows)), 32)
    (expected(model, rows) * weight).sum().backward()
    (encoder(pack(rows)) * weight).sum().backward()
    assert_gradients_agree(encoder.to_hf(gradients(encoder)), gradients(model), GRADIENT)


@pytest.mark.parametrize("kind", KINDS)
def test_single_and_padded_equal_packed(kind: str, tmp_path: Path) -> None:
    model = oracle(kind)
    encoder = load_encoder(save(model, tmp_path))
    rows = sequences((7, 130, 66))
    ids, mask = torch.zeros(3, 130, dtype=torch.long), torch.zeros(3, 130, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    with torch.no_grad():
        wanted = expected(model, rows)
        assert (encoder(from_padded(ids, mask)) - wanted).abs().max() < FORWARD
        alone = torch.cat([encoder(pack([row])) for row in rows])
        assert (alone - wanted).abs().max() < FORWARD


@pytest.mark.parametrize("local", [2, 8, 128, 130, 400])
def test_window_reaches_exactly_as_far_as_transformers(local: int, tmp_path: Path) -> None:
    model = oracle("modernbert", local_attention=local)
    encoder = load_encoder(save(model, tmp_path))
    assert encoder.config.windows == (None, local // 2, local // 2, None)
    rows = sequences((local // 2, local // 2 + 1, local // 2 + 2, 300, 3 * 64, 3 * 64 + 1))
    with torch.no_grad():
        assert (encoder(pack(rows)) - expected(model, rows)).abs().max() < FORWARD


@pytest.mark.parametrize("distance", [64, 65])
def test_a_token_at_the_edge_of_the_window(distance: int, tmp_path: Path) -> None:
    # One sliding layer: token 0 must move the token 64 places on, and not the one 65 places on.
    model = oracle("modernbert", num_hidden_layers=1, layer_types=["sliding_attention"])
    encoder = load_encoder(save(model, tmp_path))
    (row,) = sequences((300,))
    other = row.clone()
    other[0] = (row[0] - 3 + 1) % 90 + 3
    with torch.no_grad():
        moved = (encoder(pack([row])) - encoder(pack([other]))).abs().amax(1) > 0
    assert bool(moved[distance]) == (distance <= 64)


def test_old_config_fields_are_read(tmp_path: Path) -> None:
    # The published checkpoints still carry the fields of transformers 4.
    model = oracle("modernbert", num_hidden_layers=5)
    folder = save(model, tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    del raw["layer_types"], raw["rope_parameters"]
    raw |= {"global_attn_every_n_layers": 2, "global_rope_theta": 5e4, "local_rope_theta": None}
    (folder / "config.json").write_text(json.dumps(raw))
    encoder = load_encoder(folder)
    assert encoder.config.windows == (None, 64, None, 64, None)
    assert encoder.config.thetas == (5e4,) * 5
    rope = {kind: {"rope_type": "default", "rope_theta": 5e4} for kind in ("full_attention", "sliding_attention")}
    same = oracle("modernbert", num_hidden_layers=5, global_attn_every_n_layers=2, rope_parameters=rope)
    same.load_state_dict(model.state_dict())
    rows = sequences((200, 31))
    with torch.no_grad():
        assert (encoder(pack(rows)) - expected(same, rows)).abs().max() < FORWARD


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_segments_and_padding_ids_inside_a_text(kind: str, tmp_path: Path) -> None:
    model = oracle(kind)
    encoder = load_encoder(save(model, tmp_path))
    rows = sequences((9, 40))
    rows[1][5] = encoder.config.pad_token_id  # RoBERTa does not count it among the positions
    types = [torch.randint(0, 2, row.shape) for row in rows]
    weight = torch.randn(49, 32)
    wanted = expected(model, rows, token_type_ids=types)
    found = encoder(pack(rows, types))
    assert (found - wanted).abs().max() < FORWARD
    (wanted * weight).sum().backward()
    (found * weight).sum().backward()
    assert_gradients_agree(encoder.to_hf(gradients(encoder)), gradients(model), GRADIENT)


@pytest.mark.parametrize("kind", ["modernbert", "bert"])
def test_a_neighbour_never_changes_my_output(kind: str, tmp_path: Path) -> None:
    encoder = load_encoder(save(oracle(kind), tmp_path))
    mine, other, third = sequences((150, 211, 33))
    changed = (other - 3 + 1) % 90 + 3
    with torch.no_grad():
        before = unpack(encoder(pack([other, mine, third])), pack([other, mine, third]))[1]
        # Same place in the pack, other neighbours: bit by bit.
        after = encoder(pack([changed, mine, third]))[211 : 211 + 150]
        assert torch.equal(before, after)
        # Another place in the pack: chunks fall elsewhere, so sums may round differently.
        assert (encoder(pack([mine])) - before).abs().max() < 2e-6


@pytest.mark.parametrize("kind", ["modernbert", "bert"])
def test_gradients_do_not_cross_sequences(kind: str, tmp_path: Path) -> None:
    encoder = load_encoder(save(oracle(kind), tmp_path))
    rows = [torch.full((100,), 5), torch.full((90,), 7), torch.full((20,), 9)]
    encoder(pack(rows))[100:190].pow(2).sum().backward()
    table = encoder.embeddings.tok_embeddings if kind == "modernbert" else encoder.embeddings.word_embeddings
    touched = table.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [7]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["modernbert", "modernbert-biased", "bert", "roberta"])
def test_rows_alone_are_those_of_the_whole(kind: str, checkpointing: bool, tmp_path: Path) -> None:
    encoder = load_encoder(save(oracle(kind), tmp_path), dropout=0.0).train()
    encoder.gradient_checkpointing = checkpointing
    packed = pack(sequences((70, 1, 200, 12, 12)))
    rows = packed.cu_seqlens[:-1].long()
    weight = torch.randn(len(rows), encoder.config.hidden_size)
    found, seen = [], []
    for hidden in (lambda: encoder(packed)[rows], lambda: encoder(packed, rows=rows)):
        encoder.zero_grad()
        seen.append(hidden())
        (seen[-1] * weight).sum().backward()
        found.append(gradients(encoder))
    torch.testing.assert_close(seen[1], seen[0], atol=1e-5, rtol=1e-5)
    for name, value in found[0].items():
        assert relative(found[1][name], value) < 1e-5, name


@pytest.mark.parametrize("kind", ["modernbert", "bert"])
def test_checkpointing_gives_the_same_gradients(kind: str, tmp_path: Path) -> None:
    encoder = load_encoder(save(oracle(kind), tmp_path), dropout=0.1).train()
    packed = pack(sequences((70, 200, 12)))
    found = []
    for checkpointing in (False, True):
        encoder.gradient_checkpointing = checkpointing
        encoder.zero_grad()
        torch.manual_seed(1)  # the same dropout
        encoder(packed).pow(2).sum().backward()
        found.append(gradients(encoder))
    for name, value in found[0].items():
        assert relative(found[1][name], value) < 1e-6, name


@pytest.mark.parametrize("kind", ["modernbert", "bert"])
def test_dropout_acts_in_training_only_and_by_its_value(kind: str, tmp_path: Path) -> None:
    folder = save(oracle(kind), tmp_path)
    packed = pack(sequences((30, 20)))
    quiet, loud = load_encoder(folder, dropout=0.0), load_encoder(folder, dropout=0.5)
    with torch.no_grad():
        assert torch.equal(quiet(packed), loud(packed))
        assert torch.equal(quiet.train()(packed), quiet(packed))
        assert not torch.equal(loud.train()(packed), loud(packed))
    configured = load_encoder(folder).layers[0]
    layer_dropout = configured.attn.dropout if kind == "modernbert" else configured.attention_dropout
    assert layer_dropout == (0.0 if kind == "modernbert" else 0.1)


def test_bf16_weights_stay_close_to_float32(tmp_path: Path) -> None:
    encoder = load_encoder(save(oracle("modernbert"), tmp_path))
    packed = pack(sequences((150, 64, 64, 3)))
    with torch.no_grad():
        wanted = encoder(packed)
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(packed)
    assert relative(found.float(), wanted) < 0.05


def test_minilm_equals_transformers() -> None:
    from transformers import AutoModel

    folder = resolve("minilm")
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa").eval()
    encoder = load_encoder(folder)
    rows = sequences((1, 63, 64, 129, 300, 300), vocabulary=30_000)
    weight = torch.randn(sum(map(len, rows)), 384)
    wanted, found = expected(model, rows), encoder(pack(rows))
    assert (found - wanted).abs().max() < FORWARD
    (wanted * weight).sum().backward()
    (found * weight).sum().backward()
    assert_gradients_agree(encoder.to_hf(gradients(encoder)), gradients(model), GRADIENT)
    saved = encoder_to_hf(encoder)
    for name, value in model.state_dict().items():
        assert torch.equal(saved["bert." + name], value), name
