"""A ModernBERT student that starts as its BERT teacher: the weights are carried over, layer by layer.

The two families differ in where they normalise (after a block, or before it), in how they know positions (a table,
or rotation), in the MLP (plain, or gated) and in the attention window. Each block of the student takes the
teacher's projections; what the differences break is mended on a few thousand real tokens, in closed form: every
norm's gain and bias is the least-squares fit to what the teacher's block reads there, every output projection is
corrected by ridge regression towards what the teacher's stream holds after it. Pruned MLP units are made up for in
the same step. Starting a student from its teacher's layers is DistilBERT's recipe (Sanh et al., arXiv:1910.01108);
least-squares reconstruction, layer by layer, is that of pruning (He et al., "Channel Pruning", arXiv:1707.06168).

Dimensions: T calibration tokens, D hidden, H heads, d features of a head, F units of the student's MLP.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modernbert.attention import Layout, attention
from modernbert.bert import BertEncoder
from modernbert.bert import Layer as BertLayer
from modernbert.encoder import Layer, ModernBertEncoder
from modernbert.errors import ConfigError
from modernbert.kernels import apply_rope, geglu, rope_table
from modernbert.packing import Packed

#: Ridge of the corrections as a share of the mean square of the features: weak, there are 50 tokens a feature.
RIDGE = 0.01


@torch.no_grad()
def inherit(teacher: BertEncoder, student: ModernBertEncoder, packed: Packed) -> None:
    """Fill `student`, which has the teacher's vocabulary, so that it computes nearly what `teacher` computes.

    Args:
        teacher: of the BERT family, in evaluation mode.
        student: same hidden size, heads, layers and vocabulary; norms, attention and MLP with biases.
        packed: real text in the teacher's tokens, many times D of them.

    Raises:
        ConfigError: the two shapes do not fit.
    """
    _check(teacher, student)
    layout = Layout(packed)
    stream = _embeddings(teacher, student, packed)
    hidden = teacher.embeddings(packed, layout)
    for i, (theirs, ours) in enumerate(zip(teacher.layers, student.layers, strict=True)):
        assert isinstance(theirs, BertLayer)
        assert isinstance(ours, Layer)
        if ours.attn_norm is not None:
            _fit_norm(ours.attn_norm, stream, hidden)
        summed = hidden + theirs.attention_out(attention(_qkv(theirs, hidden), layout).flatten(1))
        stream = _attention(theirs, ours, student, layout, stream, hidden, summed, student.config.thetas[i])
        hidden = theirs.attention_norm(summed)
        _fit_norm(ours.mlp_norm, stream, hidden)
        summed = hidden + theirs.mlp_out(F.gelu(theirs.mlp_in(hidden)))
        stream = _mlp(theirs, ours, stream, hidden, summed)
        hidden = theirs.mlp_norm(summed)
    _fit_norm(student.final_norm, stream, hidden)


def _embeddings(teacher: BertEncoder, student: ModernBertEncoder, packed: Packed) -> Tensor:
    """Token vectors with the mean position and the first segment added; returns the student's (T, D) stream."""
    theirs, ours = teacher.embeddings, student.embeddings
    positions = theirs.position_embeddings.weight[: packed.max_seqlen].mean(0)
    ours.tok_embeddings.weight.copy_(theirs.word_embeddings.weight + positions + theirs.token_type_embeddings.weight[0])
    ours.norm.weight.copy_(theirs.LayerNorm.weight)
    ours.norm.bias.copy_(theirs.LayerNorm.bias)
    return ours(packed.input_ids)


def _qkv(theirs: BertLayer, hidden: Tensor) -> Tensor:
    return theirs.qkv(hidden).view(hidden.shape[0], 3, theirs.num_heads, -1)


def _attention(
    theirs: BertLayer,
    ours: Layer,
    student: ModernBertEncoder,
    layout: Layout,
    stream: Tensor,
    hidden: Tensor,
    summed: Tensor,
    theta: float,
) -> Tensor:
    """Fill the attention block; returns the (T, D) stream after it."""
    order = _feature_order(_qkv(theirs, hidden))
    weight, bias = theirs.qkv.weight[order], theirs.qkv.bias[order]
    ours.attn.Wqkv.weight.copy_(weight)
    ours.attn.Wqkv.bias.copy_(bias)
    scale, shift = _fit_stream(hidden, stream)
    ours.attn.Wo.weight.copy_(scale * theirs.attention_out.weight)
    ours.attn.Wo.bias.copy_(scale * theirs.attention_out.bias)
    normed = stream if ours.attn_norm is None else ours.attn_norm(stream)
    qkv = ours.attn.Wqkv(normed).view(len(normed), 3, ours.attn.num_heads, -1)
    table = rope_table(layout.positions, student.config.head_dim, theta)
    mixed = attention(apply_rope(qkv, *table), layout, ours.attn.window).flatten(1)
    _correct(ours.attn.Wo, mixed, scale * summed + shift - stream)
    return stream + ours.attn.Wo(mixed)


def _mlp(theirs: BertLayer, ours: Layer, stream: Tensor, hidden: Tensor, summed: Tensor) -> Tensor:
    """Fill the MLP with the teacher's strongest units and an open gate; returns the (T, D) stream after it."""
    mlp, size = ours.mlp, ours.mlp.Wo.in_features
    strength = F.gelu(theirs.mlp_in(hidden)).square().mean(0).sqrt() * theirs.mlp_out.weight.norm(dim=0)
    kept = strength.topk(size).indices.sort().values
    mlp.Wi.weight[:size] = theirs.mlp_in.weight[kept]
    mlp.Wi.bias[:size] = theirs.mlp_in.bias[kept]
    # gelu(a) * 1: a gate that reads nothing yet.
    mlp.Wi.weight[size:] = 0.0
    mlp.Wi.bias[size:] = 1.0
    scale, shift = _fit_stream(hidden, stream)
    mlp.Wo.weight.copy_(scale * theirs.mlp_out.weight[:, kept])
    mlp.Wo.bias.copy_(scale * theirs.mlp_out.bias)
    units = geglu(mlp.Wi(ours.mlp_norm(stream)))
    _correct(mlp.Wo, units, scale * summed + shift - stream)
    return stream + mlp.Wo(units)


def _feature_order(qkv: Tensor) -> Tensor:
    """(3D,) rows of the projections in which the features that matter least to a head's scores turn fastest.

    Rotation disturbs a feature of a model that never knew it; the slow pairs hardly turn within a sentence.
    """
    _, _, heads, dim = qkv.shape
    weight = qkv[:, 0].square().mean(0).sqrt() * qkv[:, 1].square().mean(0).sqrt()  # (H, d)
    inside = weight.argsort(dim=1)
    rows = (inside + torch.arange(heads)[:, None] * dim).flatten()
    size = heads * dim
    return torch.cat([rows, rows + size, torch.arange(2 * size, 3 * size)])


def _fit_norm(norm: nn.LayerNorm, stream: Tensor, target: Tensor) -> None:
    """Gain and bias by which the normalised stream comes nearest to `target`, feature by feature."""
    scale, shift = _fit_channels(F.layer_norm(stream, norm.normalized_shape, eps=norm.eps), target)
    norm.weight.copy_(scale)
    norm.bias.copy_(shift)


def _fit_stream(hidden: Tensor, stream: Tensor) -> tuple[Tensor, Tensor]:
    """One scale for all features, and a (D,) shift, by which the teacher's normalised stream becomes ours.

    A scale for each feature fits better here and worse in the end: the few features that the teacher's norms shrink
    would grow in a stream that is never normalised until they rule its variance (MiniLM: similarities of sentences
    correlate at 0.35 with the teacher's so, at 0.90 with one scale).
    """
    scale = _fit_channels(hidden, stream)[0].median()
    return scale, stream.mean(0) - scale * hidden.mean(0)


def _fit_channels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares y = scale * x + shift for each feature: (D,) and (D,)."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    scale = (centred * (y - y_mean)).sum(0) / centred.square().sum(0).clamp_min(1e-12)
    return scale, y_mean - scale * x_mean


def _correct(linear: nn.Linear, features: Tensor, target: Tensor) -> None:
    """Change `linear` least so that linear(features) comes nearest to `target` (ridge regression)."""
    with_one = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    rest = target - linear(features)
    gram = with_one.t() @ with_one
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    change = torch.linalg.solve(gram, with_one.t() @ rest)
    linear.weight.add_(change[:-1].t())
    linear.bias.add_(change[-1])


def _check(teacher: object, student: object) -> None:
    if not isinstance(teacher, BertEncoder) or not isinstance(student, ModernBertEncoder):
        raise ConfigError("inherit=layers carries a BERT teacher over to a ModernBERT student; here it is another pair")
    theirs, ours = teacher.config, student.config
    for name in ("hidden_size", "num_layers", "num_heads", "vocab_size"):
        if getattr(theirs, name) != getattr(ours, name):
            given = f"the teacher has {name}={getattr(theirs, name)}, the student {getattr(ours, name)}"
            raise ConfigError(f"inherit=layers: {given}; they must be equal")
    if not (ours.norm_bias and ours.attention_bias and ours.mlp_bias):
        raise ConfigError("inherit=layers needs a student with norm_bias, attention_bias and mlp_bias true")
    if ours.intermediate_size > theirs.intermediate_size:
        raise ConfigError(
            f"inherit=layers: intermediate_size={ours.intermediate_size}; allowed is up to the teacher's "
            f"{theirs.intermediate_size}"
        )
