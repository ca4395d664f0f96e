"""The BERT family (BERT, MiniLM, RoBERTa, XLM-R) over packed sequences. Source: Devlin et al., arXiv:1810.04805.

Query, key and value projections are one matrix; `from_hf` joins them and `to_hf` takes them apart.

Dimensions: T tokens, D hidden, H heads, F intermediate.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from modernbert.attention import Layout, attention, layout_of
from modernbert.config import EncoderConfig
from modernbert.even import evened
from modernbert.inputs import check_dropout, check_pack, run_layer
from modernbert.kernels import add_layer_norm, dropout, layer_norm, linear, linear_gelu
from modernbert.packing import Packed

# Ours -> Hugging Face, inside a layer; the projections of attention are handled apart.
LAYER_NAMES = {
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
PROJECTIONS = ("query", "key", "value")


class BertEncoder(nn.Module):
    """Token ids to contextual vectors (without the pooler, which belongs to the heads).

    Args:
        config: the architecture.
        dropout: every hidden dropout in training; None for that of the configuration. `attention_probs_dropout_prob`
            is not applied (see `attention`): a difference from transformers in training only.

    Setting `gradient_checkpointing` keeps one vector a token and layer in training and computes the rest again.
    """

    hf_buffers: tuple[str, ...] = ("embeddings.position_ids", "embeddings.token_type_ids")

    def __init__(self, config: EncoderConfig, dropout: float | None = None) -> None:
        super().__init__()
        check_dropout(dropout)
        self.config = config
        self.hf_prefix = f"{config.family}."
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config, dropout)
        self.layers = nn.ModuleList([Layer(config, dropout) for _ in range(config.num_layers)])

    def forward(self, packed: Packed, rows: Tensor | None = None) -> Tensor:
        """The (T, D) vectors of a pack; with `rows` (R,) int64 only the (R, D) of those tokens.

        A head that reads the first token alone asks for those rows: after its attention the last layer then works
        on them only, which saves three quarters of its matrix products (an eighth of a 6-layer encoder's).

        Raises:
            EncoderError: a sequence longer than `config.max_positions`, or (on the CPU) an id or segment
                outside its table.
            BackendError: the pack is on another device than the weights.
        """
        weight = self.embeddings.LayerNorm.weight
        check_pack(packed, self.config, weight.device)
        wanted = packed.num_tokens if rows is None else len(rows)
        packed, rows = evened(packed, rows, weight, self.config.max_positions, self.training)
        layout = layout_of(packed)
        recompute = self.gradient_checkpointing and self.training
        hidden = self.embeddings(packed, layout)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            hidden = run_layer(layer, recompute, hidden, layout, rows if i == last else None)
        return hidden[:wanted]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every weight anew, as transformers does: normals of one width, zeros for padding."""
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 1:
                nn.init.ones_(weight)
            else:
                nn.init.normal_(weight, std=self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])

    def from_hf(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict from tensors under their Hugging Face names (without prefix)."""
        state = {name: value for name, value in tensors.items() if name.startswith("embeddings.")}
        for i in range(self.config.num_layers):
            theirs = f"encoder.layer.{i}."
            for kind in ("weight", "bias"):
                parts = [tensors[f"{theirs}attention.self.{which}.{kind}"] for which in PROJECTIONS]
                state[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
                for name, hf_name in LAYER_NAMES.items():
                    state[f"layers.{i}.{name}.{kind}"] = tensors[f"{theirs}{hf_name}.{kind}"]
        return state

    def to_hf(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under their Hugging Face names (without prefix) from our state dict."""
        tensors = {}
        for name, value in state.items():
            inside = re.fullmatch(r"layers\.(\d+)\.(\w+)\.(weight|bias)", name)
            if inside is None:
                tensors[name] = value
                continue
            index, part, kind = inside.groups()
            theirs = f"encoder.layer.{index}."
            if part != "qkv":
                tensors[f"{theirs}{LAYER_NAMES[part]}.{kind}"] = value
                continue
            for which, piece in zip(PROJECTIONS, value.chunk(3), strict=True):
                tensors[f"{theirs}attention.self.{which}.{kind}"] = piece
        return tensors


class Embeddings(nn.Module):
    """Token, position and segment vectors, summed and normalised; names as in transformers."""

    def __init__(self, config: EncoderConfig, dropout: float | None) -> None:
        super().__init__()
        size, pad = config.hidden_size, config.pad_token_id
        # RoBERTa counts positions from pad_token_id + 1, and padding tokens have the position pad_token_id.
        self.counts_from_pad = config.family == "roberta"
        offset = pad + 1 if self.counts_from_pad and pad is not None else 0
        positions = config.max_positions + offset
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(positions, size, padding_idx=pad if offset else None)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.norm_eps)
        self.dropout = config.embedding_dropout if dropout is None else dropout

    def forward(self, packed: Packed, layout: Layout) -> Tensor:
        """A pack -> (T, D)."""
        positions = self._roberta_positions(packed.input_ids, layout) if self.counts_from_pad else layout.positions
        summed = self.word_embeddings(packed.input_ids)
        if packed.token_type_ids is None:
            summed = summed + self.token_type_embeddings.weight[0]
        else:
            summed = summed + self.token_type_embeddings(packed.token_type_ids)
        norm = self.LayerNorm
        hidden = layer_norm(summed + self.position_embeddings(positions), norm.weight, norm.bias, norm.eps)
        return dropout(hidden, self.dropout, self.training)

    def _roberta_positions(self, input_ids: Tensor, layout: Layout) -> Tensor:
        """(T,) positions counted over real tokens only: a padding token in a text does not move those after it."""
        pad = self.word_embeddings.padding_idx
        assert pad is not None  # read_config refuses a RoBERTa without one
        real = (input_ids != pad).long()
        seen = real.cumsum(0)
        before = (seen - real)[layout.starts]  # real tokens of the sequences before
        return (seen - before + layout.shift) * real + pad


class Layer(nn.Module):
    """Attention and MLP, each followed by dropout, the residual and a norm."""

    def __init__(self, config: EncoderConfig, dropout: float | None) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout if dropout is None else dropout
        self.mlp_dropout = config.mlp_dropout if dropout is None else dropout
        self.qkv = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.attention_norm = nn.LayerNorm(size, eps=config.norm_eps)
        self.mlp_in = nn.Linear(size, config.intermediate_size)
        self.mlp_out = nn.Linear(config.intermediate_size, size)
        self.mlp_norm = nn.LayerNorm(size, eps=config.norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, rows: Tensor | None = None) -> Tensor:
        """(T, D) -> (T, D), or (R, D) of `rows`: every token is attended to, these alone go on."""
        qkv = linear(self.qkv, hidden).view(hidden.shape[0], 3, self.num_heads, -1)
        mixed = attention(qkv, layout).flatten(1)
        del qkv  # three quarters of what the layer would hold until its end
        if rows is not None:
            hidden, mixed = hidden[rows], mixed[rows]
        update = linear(self.attention_out, mixed)
        hidden = self._close(hidden, update, self.attention_dropout, self.attention_norm)
        update = linear(self.mlp_out, linear_gelu(self.mlp_in, hidden))
        return self._close(hidden, update, self.mlp_dropout, self.mlp_norm)

    def _close(self, hidden: Tensor, update: Tensor, share: float, norm: nn.LayerNorm) -> Tensor:
        update = dropout(update, share, self.training)
        return add_layer_norm(hidden, update, norm.weight, norm.bias, norm.eps, inplace=True)[1]
