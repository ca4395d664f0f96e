"""Fixtures of every test: seeds, the shared data folder when it is there, small files."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
#: Files that take a minute or more. Last in the row, each would leave the other processes without work.
LONGEST = ("test_readme.py", "test_distil_verb.py", "test_resume.py", "test_ddp.py", "test_browser.py")


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it starts in the background, and so would the processes that tests interrupt."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of fast tests first; of the others the longest first (`make test` keeps this order)."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path in slow, rank.get(item.path.name, len(rank))))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real public data beside the checkout; a test that needs it is skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: this test reads real data from it")
    return folder


WORDS = (
    "the parcel has not come yet i was charged twice for one order my password does not work how do send shoes back "
    "courier left it with a neighbour again please refund money app closes when open map where is good bad fine"
).split()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny_encoder("bert" | "roberta" | "modernbert") -> a checkpoint folder: 2 layers, 32 wide, random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoModel, BertConfig, ModernBertConfig, RobertaConfig

    made: dict[str, Path] = {}
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate(specials + sorted(set(WORDS)))}
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    configs = {
        "bert": lambda: BertConfig(**sizes, intermediate_size=64, max_position_embeddings=64),
        "roberta": lambda: RobertaConfig(**sizes, **ids, intermediate_size=64, max_position_embeddings=66),
        "modernbert": lambda: ModernBertConfig(
            **sizes, **ids, intermediate_size=48, max_position_embeddings=256, local_attention=16,
            global_attn_every_n_layers=2,
        ),
    }  # fmt: skip

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(f"tiny-{family}")
            torch.manual_seed(0)
            AutoModel.from_config(configs[family]()).save_pretrained(folder)
            tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
            tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
            tokenizer.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]",
                pair="[CLS] $A [SEP] $B:1 [SEP]:1" if family == "bert" else "[CLS] $A [SEP] $B [SEP]",
                special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
            )
            tokenizer.save(str(folder / "tokenizer.json"))
            settings = {
                "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]",
                "cls_token": "[CLS]", "sep_token": "[SEP]",
                "model_input_names": ["input_ids", "attention_mask"] + ["token_type_ids"] * (family == "bert"),
            }  # fmt: skip
            (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
            made[family] = folder
        return made[family]

    return make
