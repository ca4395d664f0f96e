"""Words of two tokenizers brought together, a student begun from its teacher, and the losses of both by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from modernbert.config import parse_config
from modernbert.encoder import ModernBertEncoder
from modernbert.errors import ConfigError, EncoderError
from modernbert.packing import pack
from modernbert.weights import build_encoder, load_encoder
from tasks.data.tokenise import load_tokenizer
from tasks.pretraining.align import encode_units, unit_index, unit_means
from tasks.pretraining.begin import new_student
from tasks.pretraining.distil import TEXT_WEIGHT, Distillation, Twice, agreement, pieces, spread, twice_tokenised
from tasks.pretraining.inherit import inherit
from tasks.pretraining.pairs import Contrast, Pair, paired, text_pairs
from tasks.pretraining.shapes import SHAPES, shape_config
from tasks.pretraining.text import Document
from tasks.pretraining.tokenizer import train_tokenizer
from tasks.pretraining.vocabulary import transfer_vocabulary

TEXTS = ["The parcel came broken.", "Zürich:  two\tspaces", "Ö", "money-back please"]


@pytest.fixture
def byte_level(tmp_path: Path) -> Tokenizer:
    return train_tokenizer([*TEXTS, "the parcel has not come yet"] * 9, 290, tmp_path / "bpe", 128)


@pytest.fixture
def letters() -> Tokenizer:
    """BERT's tokenizer with a few words, else letters: it lower-cases, and splits at signs."""
    alphabet = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet, *("##" + c for c in alphabet), "parcel", "##ken"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    (units,) = encode_units(tokenizer, [text])
    rows: dict[int, str] = {}
    for number, unit in zip(units.ids.tolist(), units.units.tolist(), strict=True):
        rows[unit] = rows.get(unit, "") + tokenizer.decode([number], skip_special_tokens=False).strip().removeprefix(
            "##"
        )
    assert sorted(rows) == list(range(len(rows)))
    return [rows[unit] for unit in sorted(rows)]


def test_units_are_the_words_between_white_space(byte_level: Tokenizer, letters: Tokenizer) -> None:
    assert words_of(byte_level, TEXTS[0]) == ["[CLS]", "The", "parcel", "came", "broken.", "[SEP]"]
    assert words_of(letters, TEXTS[0]) == ["[CLS]", "the", "parcel", "came", "broken.", "[SEP]"]
    assert words_of(letters, TEXTS[1]) == ["[CLS]", "zurich:", "two", "spaces", "[SEP]"]
    for text in TEXTS:
        (ours,), (theirs,) = encode_units(byte_level, [text]), encode_units(letters, [text])
        assert ours.units[-1] == theirs.units[-1] == len(text.split()) + 1
        assert ours.units[0] == theirs.units[0] == 0


def test_unit_means_of_a_batch_by_hand(letters: Tokenizer) -> None:
    # [CLS] a a [SEP] and [CLS] a ##b [SEP]; the first text has a fifth unit that this tokenizer does not reach.
    index = unit_index(encode_units(letters, ["a a", "ab"]), [5, 3])
    assert index.tolist() == [0, 1, 2, 3, 5, 6, 6, 7]
    hidden = torch.arange(7.0)[:, None].expand(7, 2)
    means, there = unit_means(hidden, torch.tensor([0, 1, 1, 2, 4, 5, 5]), 6)
    assert means[:, 0].tolist() == [0.0, 1.5, 3.0, 0.0, 4.0, 5.5]
    assert there.tolist() == [True, True, True, False, True, True]


def test_a_new_vocabulary_starts_at_the_vectors_of_the_old(byte_level: Tokenizer, letters: Tokenizer) -> None:
    table = torch.randn(letters.get_vocab_size(), 4)
    vectors = transfer_vocabulary(letters, byte_level, table)
    row = {piece: vectors[index] for piece, index in byte_level.get_vocab().items()}
    old = letters.get_vocab()
    assert torch.equal(row["[MASK]"], table[old["[MASK]"]])
    assert torch.equal(row["Ġparcel"], table[old["parcel"]])
    assert torch.equal(row["e"], table[old["##e"]])
    assert torch.equal(row["T"], table[old["##t"]])
    word = next(piece[1:] for piece in row if re.fullmatch("Ġ[a-z]{2,}", piece) and piece[1:] not in old)
    spelled = [old[letter if i == 0 else f"##{letter}"] for i, letter in enumerate(word)]
    torch.testing.assert_close(row[f"Ġ{word}"], table[spelled].mean(0))
    assert torch.equal(row["Ċ"], table.mean(0))
    # The same vocabulary again is the same table.
    assert torch.equal(transfer_vocabulary(letters, letters, table), table)


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
BERT = SIZES | {"model_type": "bert", "vocab_size": 120, "intermediate_size": 64, "max_position_embeddings": 64}
STUDENT = (
    shape_config("tiny")
    | SIZES
    | {"vocab_size": 120, "intermediate_size": 64, "norm_bias": True, "attention_bias": True, "mlp_bias": True}
    | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "pad_token_id": None}
)


def bert() -> nn.Module:
    """A teacher that is as a trained one: norms that differ by feature, attention that is not uniform."""
    teacher = build_encoder(parse_config(BERT)).eval()
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "layers" in name:
                parameter.mul_(5)
            elif "position" not in name:
                parameter.mul_(20)
    return teacher


def error(teacher: nn.Module, student: nn.Module, packed: object) -> float:
    with torch.no_grad():
        goal, made = teacher(packed), student(packed)
    return float((made - goal).square().sum() / (goal - goal.mean(0)).square().sum())


def texts_of(count: int, length: int = 24) -> object:
    return pack([torch.randint(120, (length,)) for _ in range(count)])


def test_a_student_inherits_most_of_what_its_teacher_computes() -> None:
    teacher, student = bert(), build_encoder(parse_config(STUDENT)).eval()
    held_out = texts_of(20)
    before = error(teacher, student, held_out)
    inherit(teacher, student, texts_of(120))  # type: ignore[arg-type]
    assert error(teacher, student, held_out) < 0.35 < 0.9 < before


def test_the_first_block_is_exact_without_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without rotation and position table the two architectures agree up to the norm after the first attention.
    monkeypatch.setattr("modernbert.encoder.apply_rope", lambda qkv, cos, sin: qkv)
    monkeypatch.setattr("tasks.pretraining.inherit.apply_rope", lambda qkv, cos, sin: qkv)
    one = {"num_hidden_layers": 1}
    teacher = build_encoder(parse_config(BERT | one)).eval()
    nn.init.zeros_(teacher.embeddings.position_embeddings.weight)
    student = build_encoder(parse_config(STUDENT | one | {"layer_types": ["full_attention"]})).eval()
    packed = texts_of(50)
    inherit(teacher, student, packed)  # type: ignore[arg-type]
    # Fresh norms have one gain for all features, so that one scale is exact: what is left is the ridge.
    assert error(teacher, student, packed) < 1e-3


def test_fewer_mlp_units_cost_little_and_more_are_refused() -> None:
    teacher, packed = bert(), texts_of(120)
    small = build_encoder(parse_config(STUDENT | {"intermediate_size": 48})).eval()
    inherit(teacher, small, packed)  # type: ignore[arg-type]
    assert error(teacher, small, texts_of(20)) < 0.5
    large = build_encoder(parse_config(STUDENT | {"intermediate_size": 80}))
    with pytest.raises(ConfigError, match="intermediate_size=80"):
        inherit(teacher, large, packed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"num_attention_heads": 4}, "num_heads"), ({"vocab_size": 99}, "vocab_size"), ({"mlp_bias": False}, "mlp_bias")],
)
def test_shapes_that_do_not_fit_are_named(change: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        inherit(bert(), build_encoder(parse_config(STUDENT | change)), texts_of(2))  # type: ignore[arg-type]


@pytest.mark.parametrize("start", ["layers", "words", "nothing"])
def test_a_new_student_starts_as_asked(
    tmp_path: Path, letters: Tokenizer, byte_level: Tokenizer, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pretraining.begin.CALIBRATION", 60)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS * 30))
    teacher = build_encoder(parse_config(BERT | {"vocab_size": letters.get_vocab_size()})).eval()
    config = STUDENT | {"pad_token_id": 0, "intermediate_size": 48}
    student = new_student(config, byte_level, teacher, letters, [text], start)  # type: ignore[arg-type]
    assert student.config.vocab_size == byte_level.get_vocab_size()
    words = student.embeddings.get_submodule("tok_embeddings").weight[byte_level.token_to_id("Ġparcel")]
    theirs = teacher.embeddings.word_embeddings.weight[letters.token_to_id("parcel")]
    assert torch.equal(words, theirs) == (start == "words")
    if start == "layers":
        # Positions and the segment are added to every word alike.
        again = student.embeddings.get_submodule("tok_embeddings").weight[byte_level.token_to_id("[MASK]")]
        shift = again - teacher.embeddings.word_embeddings.weight[letters.token_to_id("[MASK]")]
        torch.testing.assert_close(words - theirs, shift, atol=1e-6, rtol=0)
        assert student.layers[0].mlp.Wi.bias[48:].eq(1).all()


def test_a_start_that_cannot_be_is_refused(letters: Tokenizer, byte_level: Tokenizer) -> None:
    teacher = build_encoder(parse_config(BERT))
    with pytest.raises(ConfigError, match="start=all"):
        new_student(STUDENT, byte_level, teacher, letters, [], "all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="32 and 64"):
        new_student(shape_config("tiny"), byte_level, teacher, letters, [], "words")


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_shape_is_what_transformers_builds(shape: str) -> None:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    raw = shape_config(shape)
    config = ModernBertConfig(
        **{key: value for key, value in raw.items() if key not in ("model_type", "architectures")}
    )
    with torch.device("meta"):
        theirs, ours = ModernBertForMaskedLM(config), ModernBertEncoder(parse_config(raw))
    found = {name: tuple(value.shape) for name, value in theirs.model.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == found
    assert config.layer_types == raw["layer_types"]
    assert config.max_position_embeddings == 8_192
    if shape == "pocket":
        # In fp16, with its masked-language head; the tokenizer is below half a megabyte.
        assert 2 * sum(value.numel() for value in theirs.parameters()) < 39.5e6


def test_a_shape_that_is_nowhere_is_refused(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    assert shape_config(str(tiny_encoder("bert")))["model_type"] == "bert"
    with pytest.raises(ConfigError, match="shape=poket"):
        shape_config("poket")
    with pytest.raises(EncoderError, match=r"config\.json"):
        shape_config(str(tmp_path))


# -- losses ------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tiny_encoder: Callable[..., Path], tmp_path: Path) -> tuple[nn.Module, nn.Module, list[Twice]]:
    folder = tiny_encoder("bert")
    student, teacher = load_encoder(tiny_encoder("modernbert")), load_encoder(folder).requires_grad_(False)
    tokenizers = [load_tokenizer(tiny_encoder(family)).backend_tokenizer for family in ("modernbert", "bert")]
    documents = [Document("my parcel", ("the parcel has not come yet", "please refund money")), Document("", ("good",))]
    examples = twice_tokenised(*tokenizers, 32)(documents, np.random.default_rng(0))
    return student, teacher, examples


def test_the_loss_of_a_distillation_by_hand(two: tuple[nn.Module, nn.Module, list[Twice]]) -> None:
    student, teacher, examples = two
    loss, units = Distillation(student, teacher, nn.Identity(), 0.5).loss_sum(examples)  # type: ignore[arg-type]
    assert units == sum(len(e) for e in examples)  # here each word is a token
    squares, cosines = [], []
    for example in examples:
        with torch.no_grad():
            made, goal = student(pack([example.student.ids])), teacher(pack([example.teacher.ids]))
        squares.append((made - goal).square())
        cosines.append(float(1 - torch.cosine_similarity(made.mean(0), goal.mean(0), dim=0)))
    expected = torch.cat(squares).mean() / 0.5 + TEXT_WEIGHT * np.mean(cosines)
    assert float(loss.detach()) / units == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in student.parameters())


def test_a_perfect_student_has_no_loss(two: tuple[nn.Module, nn.Module, list[Twice]]) -> None:
    _, teacher, examples = two
    same = [Twice(example.teacher, example.teacher) for example in examples]
    loss, _ = Distillation(teacher, teacher, nn.Identity(), 1.0).loss_sum(same)  # type: ignore[arg-type]
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-4)
    found = agreement(teacher, teacher, nn.Identity(), same)  # type: ignore[arg-type]
    assert found == pytest.approx({"cosine": 1.0, "similarities": 1.0}, abs=1e-5)
    vectors = torch.cat([teacher(pack([e.teacher.ids])) for e in same])
    assert spread(teacher, same) == pytest.approx(float(vectors.var(0, correction=0).mean()), rel=1e-5)  # type: ignore[arg-type]


def test_pieces_have_all_lengths() -> None:
    document = Document("Title", ("One sentence here. Another one there. A third.", "tiny", "A second paragraph."))
    found = [set(pieces([document], np.random.default_rng(seed))) for seed in range(20)]
    assert all({"Title", document.text} <= texts for texts in found)
    assert any(document.paragraphs[0] in texts for texts in found)
    assert any("Another one there." in texts for texts in found)
    assert all("tiny" not in texts for texts in found)


def test_pairs_are_titles_with_paragraphs_and_neighbouring_sentences() -> None:
    long = (
        "The first sentence is long enough to be found. The second sentence is long enough as well. "
        "Also the third one, by a hair."
    )
    documents = [Document("Parcels", ("short", long)), Document("Nothing", ("short",)), Document("", (long,))]
    found = text_pairs(documents, np.random.default_rng(0))
    assert ("Parcels", long) in found
    assert len(found) == 3
    for left, right in found:
        assert left == "Parcels" or f"{left} {right}" in long


def test_the_loss_of_pairs_is_that_of_cross_entropy_both_ways(tiny_encoder: Callable[..., Path]) -> None:
    encoder = load_encoder(tiny_encoder("modernbert"))
    batch = [Pair(np.array([2, i + 5, i + 9, 3]), np.array([2, i + 6, 3])) for i in range(4)]
    loss, units = Contrast(encoder, 0.1).loss_sum(batch)
    left = torch.stack([encoder(pack([pair.left])).mean(0) for pair in batch])
    right = torch.stack([encoder(pack([pair.right])).mean(0) for pair in batch])
    scores = torch.nn.functional.normalize(left) @ torch.nn.functional.normalize(right).t() / 0.1
    own = torch.arange(4)
    both = [nn.functional.cross_entropy(s, own, reduction="sum") for s in (scores, scores.t())]
    assert units == 4
    assert float(loss.detach()) == pytest.approx(float(torch.stack(both).sum().detach()) / 2, rel=1e-4)
    assert Contrast(encoder, 0.1).loss_sum(batch[:1])[1] == 0
    document = Document("my parcel", ("the parcel has not come yet " * 6,))
    (pair,) = paired(load_tokenizer(tiny_encoder("modernbert")).backend_tokenizer, 16)(
        [document], np.random.default_rng(0)
    )
    assert (len(pair.left), len(pair.right), len(pair)) == (4, 16, 20)
