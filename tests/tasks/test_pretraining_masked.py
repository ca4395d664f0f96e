"""The masked-language head and loss against transformers, masking by count, and a loop that resumes bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM

from modernbert.errors import ConfigError, DataError, EncoderError
from modernbert.weights import load_encoder, read_tensors
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim, build_optimizer, parameter_groups, schedule
from tasks.pretraining.loop import Budget, Loop, State
from tasks.pretraining.masked import FEWEST, MaskedHead, MaskedLanguage, sequences, word_vectors
from tasks.pretraining.save import save_encoder
from tasks.pretraining.stream import Cursor, Stream
from tasks.pretraining.text import Document

FAMILIES = ["bert", "roberta", "modernbert"]
TEXT = "the parcel has not come yet i was charged twice for one order my password does not work"


@pytest.fixture
def masked_folder(tiny_encoder: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """A tiny encoder's folder with its masked-language head, as transformers writes it, its tokenizer with a mask."""

    def make(family: str) -> Path:
        source, folder = tiny_encoder(family), tmp_path / family
        model = AutoModelForMaskedLM.from_pretrained(source)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zeros would hide a bias that is dropped
                nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
        tokenizer = load_tokenizer(source)
        tokenizer.mask_token = "[UNK]"
        tokenizer.save_pretrained(folder)
        return folder

    return make


def loaded(folder: Path) -> tuple[MaskedLanguage, object]:
    encoder = load_encoder(folder)
    head = MaskedHead(encoder)
    assert head.load(read_tensors(folder), word_vectors(encoder))
    return MaskedLanguage(encoder, head, load_tokenizer(folder), 0.3), head


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss_are_those_of_transformers(masked_folder: Callable[[str], Path], family: str) -> None:
    folder = masked_folder(family)
    objective, _ = loaded(folder)
    theirs = AutoModelForMaskedLM.from_pretrained(folder).eval()
    batch = [np.array([2, 9, 12, 7, 20, 11, 3]), np.array([2, 8, 8, 30, 3])]
    objective.rate = 0.5
    random = torch.Generator().manual_seed(1)
    packed, places, targets = objective.mask(batch, random)
    assert 3 <= len(places) <= 7
    total, count = 0.0, 0
    starts = packed.cu_seqlens.tolist()
    logits = (
        objective.head(objective.encoder(packed, rows=places)) @ word_vectors(objective.encoder).t()
        + objective.head.bias
    )
    for start, stop in pairwise(starts):
        ids = packed.input_ids[start:stop][None]
        labels = torch.full_like(ids, -100)
        mine = (places >= start) & (places < stop)
        labels[0, places[mine] - start] = targets[mine]
        out = theirs(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
        torch.testing.assert_close(logits[mine], out.logits[0, places[mine] - start], atol=2e-5, rtol=1e-5)
        total, count = total + float(out.loss.detach()) * int(mine.sum()), count + int(mine.sum())
    objective.mask = lambda batch, random=None: (packed, places, targets)  # type: ignore[method-assign]
    loss, units = objective.loss_sum(batch)
    assert units == count
    assert float(loss.detach()) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_in_transformers_with_the_same_tensors(
    masked_folder: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    folder, out = masked_folder(family), tmp_path / "out"
    objective, head = loaded(folder)
    with torch.no_grad():
        for parameter in objective.head.parameters():
            parameter.add_(0.25)
    save_encoder(out, objective.encoder, half=False, head=head.to_hf())  # type: ignore[attr-defined]
    theirs, info = AutoModelForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    for name, value in theirs.state_dict().items():
        changed = 0.25 if name.startswith(("head.", "cls.", "lm_head.", "decoder.bias")) else 0.0
        if not name.endswith("decoder.weight"):
            torch.testing.assert_close(value, before[name] + changed, rtol=0, atol=1e-6)


def test_an_encoder_without_a_head_gets_a_fresh_one_and_says_so(tiny_encoder: Callable[..., Path]) -> None:
    encoder = load_encoder(tiny_encoder("bert"))
    assert not MaskedHead(encoder).load(read_tensors(tiny_encoder("bert")), word_vectors(encoder))


def test_an_untied_decoder_is_refused(masked_folder: Callable[[str], Path]) -> None:
    folder = masked_folder("modernbert")
    encoder = load_encoder(folder)
    tensors = read_tensors(folder) | {"decoder.weight": torch.zeros_like(word_vectors(encoder))}
    with pytest.raises(EncoderError, match="tied"):
        MaskedHead(encoder).load(tensors, word_vectors(encoder))


def test_masking_follows_its_shares_and_spares_special_tokens(masked_folder: Callable[[str], Path]) -> None:
    objective, _ = loaded(masked_folder("modernbert"))
    ids = np.concatenate([[2], np.full(20_000, 9), [3]])
    packed, places, targets = objective.mask([ids])
    assert set(targets.tolist()) == {9}
    assert len(places) == pytest.approx(6_000, abs=300)
    shown = packed.input_ids[places]
    assert int((shown == objective.mask_id).sum()) / len(places) == pytest.approx(0.8, abs=0.03)
    assert int((shown == 9).sum()) / len(places) == pytest.approx(0.1, abs=0.03)
    untouched = torch.ones(len(ids), dtype=torch.bool)
    untouched[places] = False
    assert torch.equal(packed.input_ids[untouched], torch.from_numpy(ids)[untouched])
    assert packed.input_ids[[0, -1]].tolist() == [2, 3]
    special_only = objective.loss_sum([np.array([2, 3])])
    assert (float(special_only[0]), special_only[1]) == (0.0, 0.0)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_share_outside_0_to_1_is_refused(masked_folder: Callable[[str], Path], rate: float) -> None:
    objective, head = loaded(masked_folder("bert"))
    with pytest.raises(ConfigError, match="mask="):
        MaskedLanguage(objective.encoder, head, load_tokenizer(masked_folder("bert")), rate)  # type: ignore[arg-type]


def test_measuring_repeats_itself_and_counts_right_guesses(masked_folder: Callable[[str], Path]) -> None:
    objective, head = loaded(masked_folder("bert"))
    batch = [np.concatenate([[2], np.full(40, 11), [3]])]
    first = objective.measure([batch])
    assert objective.measure([batch]) == first
    with torch.no_grad():
        head.bias[11] += 100.0  # type: ignore[attr-defined]
    assert objective.measure([batch])["masked_accuracy"] == 1.0


def test_long_documents_are_cut_evenly_and_short_ones_left_whole(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("modernbert"))
    documents = [Document("", (TEXT,)), Document("", ("parcel money parcel",)), Document("", ("parcel",))]
    found = sequences(tokenizer, 12)(documents, np.random.default_rng(0))
    whole = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in found] == [11, 11, 5]
    assert np.concatenate([found[0][1:-1], found[1][1:-1]]).tolist() == whole
    assert all(ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id for ids in found)
    assert min(map(len, found)) >= FEWEST


# -- the loop ----------------------------------------------------------------------------------------------


def small_loop(folder: Path, text: Path, out: Path, budget: Budget) -> tuple[Loop, MaskedLanguage, Stream]:
    torch.manual_seed(0)
    objective, head = loaded(folder)
    objective.encoder.train()
    optim = Optim(lr=1e-2, warmup=0.1, schedule="wsd")
    optimizer = build_optimizer(parameter_groups(objective.encoder, head, optim), optim)  # type: ignore[arg-type]
    modules = {"encoder": objective.encoder, "head": head}
    loop: Loop = Loop(modules, optimizer, optim, budget, out, 1e9, False, {"seed": 0})  # type: ignore[arg-type]
    make = sequences(load_tokenizer(folder), 32)
    return loop, objective, Stream([text], make, 120, 80, 0)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    random, vocabulary = np.random.default_rng(0), TEXT.split()
    path.write_text("\n\f\n".join(" ".join(random.choice(vocabulary, 20)) for _ in range(40)))
    return path


def test_a_stopped_training_resumes_bit_by_bit(
    masked_folder: Callable[[str], Path], words: Path, tmp_path: Path
) -> None:
    folder, budget = masked_folder("bert"), Budget(tokens=1_400)  # with dropout: random numbers must go on too
    whole, objective, stream = small_loop(folder, words, tmp_path / "whole", budget)
    assert whole.run(objective, stream.steps(Cursor()), lambda state: False)
    assert whole.state.tokens >= 1_400
    first, objective, stream = small_loop(folder, words, tmp_path / "cut", budget)
    assert not first.run(objective, stream.steps(Cursor()), lambda state: state.step == 7)
    second, objective, stream = small_loop(folder, words, tmp_path / "cut", budget)
    torch.manual_seed(99)
    assert second.resume()
    assert second.state.step == 7
    assert second.run(objective, stream.steps(second.state.cursor), lambda state: False)
    assert second.state.step == whole.state.step
    for name, module in whole.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, second.modules[name].state_dict()[key]), key


def test_a_torn_checkpoint_is_passed_over(masked_folder: Callable[[str], Path], words: Path, tmp_path: Path) -> None:
    loop, objective, stream = small_loop(masked_folder("bert"), words, tmp_path / "run", Budget(tokens=900))
    loop.run(objective, stream.steps(Cursor()), lambda state: loop.save() if state.step in (3, 5) else False)  # type: ignore[func-returns-value,return-value]
    files = sorted((tmp_path / "run").glob("step-*.safetensors"))
    assert len(files) == 2
    files[-1].write_bytes(files[-1].read_bytes()[:-1])
    again, _, _ = small_loop(masked_folder("bert"), words, tmp_path / "run", Budget(tokens=900))
    assert again.resume()
    assert again.state.step == 5
    again.settings = {"seed": 1}
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        again.resume()


def test_rates_follow_the_budget_in_tokens(masked_folder: Callable[[str], Path], words: Path, tmp_path: Path) -> None:
    loop, objective, stream = small_loop(masked_folder("bert"), words, tmp_path / "run", Budget(tokens=2_000))
    rates: list[float] = []
    loop.run(objective, stream.steps(Cursor()), lambda state: rates.append(loop.optimizer.param_groups[0]["lr"]))  # type: ignore[arg-type,func-returns-value,return-value]
    tokens = [0, *(step.tokens for step in islice(stream.steps(Cursor()), len(rates) - 1))]
    factor = schedule(loop.optim, 1_000_000)
    for rate, before in zip(rates, np.cumsum(tokens), strict=True):
        assert rate == pytest.approx(1e-2 * factor(round(before / 2_000 * 1_000_000)), rel=1e-3, abs=1e-5)
    assert rates[-1] < rates[len(rates) // 2] == pytest.approx(1e-2)


def test_a_step_is_the_mean_over_its_masked_tokens(
    masked_folder: Callable[[str], Path], words: Path, tmp_path: Path
) -> None:
    class Linear:
        """A loss whose gradient is the sum of the examples."""

        def __init__(self, weight: nn.Parameter) -> None:
            self.weight = weight

        def loss_sum(self, batch: list[np.ndarray]) -> tuple[torch.Tensor, float]:
            return self.weight.sum() * float(sum(map(len, batch))), float(len(batch))

    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    optim = Optim(lr=1.0, warmup=0.0, clip=None, schedule="wsd")
    loop: Loop = Loop({"m": module}, optimizer, optim, Budget(tokens=10**9), tmp_path / "r", 1e9, False, {})
    make = sequences(load_tokenizer(masked_folder("bert")), 32)
    step = next(iter(Stream([words], make, 120, 50, 0).steps(Cursor())))
    assert len(step.batches) > 1
    loop.run(Linear(module.weight), [step], lambda state: False)  # type: ignore[arg-type]
    examples = [len(ids) for batch in step.batches for ids in batch]
    assert float(module.weight.detach()) == pytest.approx(-np.mean(examples), rel=1e-6)
    assert loop.state == State(1, step.tokens, loop.state.seconds, 0.0, step.after)


def test_a_gradient_that_is_no_number_stops_before_the_weights(
    masked_folder: Callable[[str], Path], words: Path, tmp_path: Path
) -> None:
    loop, objective, stream = small_loop(masked_folder("bert"), words, tmp_path / "run", Budget(tokens=900))
    before = {key: value.clone() for key, value in objective.encoder.state_dict().items()}
    objective.loss_sum = lambda batch: (word_vectors(objective.encoder).sum() * float("nan"), 1.0)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="gradient is nan at step 0"):
        loop.run(objective, stream.steps(Cursor()), lambda state: False)
    assert all(torch.equal(value, before[key]) for key, value in objective.encoder.state_dict().items())


@pytest.mark.parametrize("given", [{}, {"tokens": 0}, {"minutes": -1.0}])
def test_a_budget_without_an_end_is_refused(given: dict) -> None:
    with pytest.raises(ConfigError, match="budget"):
        Budget(**given)


def test_a_budget_ends_by_what_comes_first() -> None:
    budget = Budget(tokens=1_000, minutes=10)
    assert budget.progress(State(tokens=250, seconds=60)) == 0.25
    assert budget.progress(State(tokens=250, seconds=540)) == pytest.approx(0.9)
    assert budget.progress(State(tokens=5_000)) == 1.0
