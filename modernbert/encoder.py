"""The ModernBERT encoder over packed sequences. Source: Warner et al., arXiv:2412.13663.

Parameter names are those of transformers; query and key rows are permuted inside each head so that rotary pairs are
neighbours (kernels/rope.py), which `from_hf` does and `to_hf` undoes.

Dimensions: T tokens, D hidden, H heads, d = D / H, F intermediate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modernbert.attention import Layout, attention, layout_of
from modernbert.config import EncoderConfig
from modernbert.even import evened
from modernbert.inputs import check_dropout, check_pack, run_layer
from modernbert.kernels import (
    add_layer_norm,
    apply_rope,
    dropout,
    layer_norm,
    linear,
    linear_geglu,
    pair_order,
    rope_table,
)
from modernbert.packing import Packed

RopeTable = tuple[Tensor, Tensor]  # cos and sin, each (T, d/2)


class ModernBertEncoder(nn.Module):
    """Token ids to contextual vectors.

    Args:
        config: the architecture.
        dropout: every hidden dropout in training; None for those of the configuration. Dropout of attention
            probabilities is not applied (see `attention`); the published checkpoints have none.

    Setting `gradient_checkpointing` keeps one vector a token and layer in training and computes the rest again.
    """

    hf_prefix = "model."
    hf_buffers: tuple[str, ...] = ()

    def __init__(self, config: EncoderConfig, dropout: float | None = None) -> None:
        super().__init__()
        check_dropout(dropout)
        self.config = config
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config, dropout)
        self.layers = nn.ModuleList([Layer(config, i, dropout) for i in range(config.num_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

    def forward(self, packed: Packed, rows: Tensor | None = None) -> Tensor:
        """The (T, D) vectors of a pack; with `rows` (R,) int64 only the (R, D) of those tokens (see BertEncoder).

        Raises:
            EncoderError: a sequence longer than `config.max_positions`, or (on the CPU) an id outside the vocabulary.
            BackendError: the pack is on another device than the weights.
        """
        check_pack(packed, self.config, self.final_norm.weight.device)
        wanted = packed.num_tokens if rows is None else len(rows)
        packed, rows = evened(packed, rows, self.final_norm.weight, self.config.max_positions, self.training)
        layout = layout_of(packed)
        tables = {theta: rope_table(layout.positions, self.config.head_dim, theta) for theta in set(self.config.thetas)}
        recompute = self.gradient_checkpointing and self.training
        residual: Tensor = self.embeddings(packed.input_ids)
        update: Tensor | None = None
        last = len(self.layers) - 1
        for i, (layer, theta) in enumerate(zip(self.layers, self.config.thetas, strict=True)):
            only = rows if i == last else None
            residual, update = run_layer(layer, recompute, residual, update, layout, tables[theta], only)
        assert update is not None  # a configuration has at least one layer
        norm = self.final_norm
        return add_layer_norm(residual, update, norm.weight, norm.bias, norm.eps, inplace=True)[1][:wanted]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw every weight anew, as transformers does: truncated normals, output projections narrower by
        sqrt(2 layers)."""
        width = self.config.initializer_range
        narrow = width / (2 * self.config.num_layers) ** 0.5
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 1:
                nn.init.ones_(weight)
            else:
                std = narrow if name.endswith("Wo.weight") else width
                cut = (self.config.initializer_cutoff or 3.0) * std
                nn.init.trunc_normal_(weight, std=std, a=-cut, b=cut)

    def from_hf(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our state dict from tensors under their Hugging Face names (without prefix)."""
        order = self._row_order()
        return {n: v.index_select(0, order.to(v.device)) if ".attn.Wqkv." in n else v for n, v in tensors.items()}

    def to_hf(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under their Hugging Face names (without prefix) from our state dict."""
        order = self._row_order().argsort()
        return {n: v.index_select(0, order.to(v.device)) if ".attn.Wqkv." in n else v for n, v in state.items()}

    def _row_order(self) -> Tensor:
        """(3D,) the half-split row of Wqkv that stands at each of our rows; value rows stay."""
        size, dim = self.config.hidden_size, self.config.head_dim
        heads = torch.arange(size, device="cpu").view(-1, dim)[:, pair_order(dim, torch.device("cpu"))].flatten()
        return torch.cat([heads, heads + size, torch.arange(2 * size, 3 * size, device="cpu")])


class Embeddings(nn.Module):
    """Token vectors, normalised; positions come in by rotation, in each layer."""

    def __init__(self, config: EncoderConfig, dropout: float | None) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.dropout = config.embedding_dropout if dropout is None else dropout

    def forward(self, input_ids: Tensor) -> Tensor:
        """(T,) -> (T, D)."""
        hidden = layer_norm(self.tok_embeddings(input_ids), self.norm.weight, self.norm.bias, self.norm.eps)
        return dropout(hidden, self.dropout, self.training)


class Layer(nn.Module):
    """Pre-norm attention and gated MLP.

    The residual stream and the last block's update travel apart, so that each addition is fused with the norm after it.
    """

    def __init__(self, config: EncoderConfig, index: int, dropout: float | None) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

        # The first layer reads the embeddings, which are normalised already.
        self.attn_norm = norm() if index else None
        self.attn = Attention(config, index, dropout)
        self.mlp_norm = norm()
        self.mlp = Mlp(config, dropout)

    def forward(
        self,
        residual: Tensor,
        update: Tensor | None,
        layout: Layout,
        rope: RopeTable,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(T, D) stream and (T, D) update before (None before the first layer) -> the same after the layer.

        With `rows` every token is attended to, but these (R,) alone go on: (R, D) each.
        """
        normed, norm = residual, self.attn_norm
        if norm is not None and update is not None:
            residual, normed = add_layer_norm(residual, update, norm.weight, norm.bias, norm.eps, inplace=True)
        update, norm = self.attn(normed, layout, rope, rows), self.mlp_norm
        residual = residual if rows is None else residual[rows]
        residual, normed = add_layer_norm(residual, update, norm.weight, norm.bias, norm.eps, inplace=True)
        return residual, self.mlp(normed)


class Attention(nn.Module):
    """One projection to queries, keys and values; rotary positions; global or within a window."""

    def __init__(self, config: EncoderConfig, index: int, dropout: float | None) -> None:
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.num_heads, self.window = config.num_heads, config.windows[index]
        self.dropout = config.attention_dropout if dropout is None else dropout
        self.Wqkv = nn.Linear(size, 3 * size, bias=bias)
        self.Wo = nn.Linear(size, size, bias=bias)

    def forward(self, hidden: Tensor, layout: Layout, rope: RopeTable, rows: Tensor | None = None) -> Tensor:
        """(T, D) -> (T, D), or (R, D) of `rows`."""
        qkv = linear(self.Wqkv, hidden).view(hidden.shape[0], 3, self.num_heads, -1)
        mixed = attention(apply_rope(qkv, *rope), layout, self.window).flatten(1)
        del qkv  # three quarters of what is held here
        out = linear(self.Wo, mixed if rows is None else mixed[rows])
        return dropout(out, self.dropout, self.training)


class Mlp(nn.Module):
    """GeGLU between two projections."""

    def __init__(self, config: EncoderConfig, dropout: float | None) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.dropout = config.mlp_dropout if dropout is None else dropout

    def forward(self, hidden: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        gated = linear_geglu(self.Wi, hidden)
        return linear(self.Wo, dropout(gated, self.dropout, self.training))
