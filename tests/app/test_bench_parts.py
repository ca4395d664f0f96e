"""What the benches are made of: operation counts, the measuring loop, workloads, words for a subprocess."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from app import console
from app.bench import child, encoder_suite, flops, measure, memory, peers, report, train_suite, workload
from app.bench.measure import Clock, Sample, paired, ratio
from app.compose import compose, plain
from modernbert.config import parse_config
from modernbert.errors import ConfigError, ModernBertError
from modernbert.kernels import onednn

TINY = {
    "model_type": "modernbert",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
    "local_attention": 4,
    "layer_types": ["full_attention", "sliding_attention"],
}


@pytest.mark.parametrize("window", [None, 1, 2, 5])
@pytest.mark.parametrize("length", [1, 2, 3, 6, 7, 20])
def test_visible_pairs_are_those_of_the_mask(length: int, window: int | None) -> None:
    at = np.arange(length)
    seen = np.abs(at[:, None] - at) <= (length if window is None else window)
    assert flops.visible_pairs(length, window) == seen.sum()


def test_flops_by_hand() -> None:
    # One token, one layer: 4 projections of 8x8 and 3 matrices of 8x12, two operations a multiply-add.
    linear = 2 * (4 * 64 + 3 * 96)
    config = parse_config(TINY)
    assert flops.linear_flops(config) == linear == 1088
    # Lengths 3 and 5. All pairs: 9 + 25. Window 2 on each side: 9 + (25 - 2 * (1 + 2)). Two products of 8 a pair.
    pairs = (9 + 25) + (9 + 19)
    assert flops.forward_flops(config, [3, 5]) == 2 * 8 * linear + 4 * 8 * pairs


def test_bert_has_two_matrices_in_its_mlp() -> None:
    bert = {key: TINY[key] for key in TINY if key not in ("local_attention", "layer_types")}
    assert flops.linear_flops(parse_config(bert | {"model_type": "bert"})) == 2 * (4 * 64 + 2 * 96)


@pytest.mark.parametrize(("by_onednn", "operator"), [(False, "aten::mm"), (True, "mkldnn::_linear_pointwise")])
def test_ceiling_multiplies_what_it_counts(
    by_onednn: bool, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(flops.CEILING_SIDE, "cpu", 16)
    monkeypatch.setattr(onednn, "pays", lambda: by_onednn)
    multiply, operations = flops.ceiling(torch.device("cpu"), torch.float32)
    with torch.profiler.profile() as noted:
        multiply()
    assert {"aten::mm", "mkldnn::_linear_pointwise"} & {event.key for event in noted.key_averages()} == {operator}
    assert operations == 2 * 16**3


class Machine:
    """A clock that only work moves: `calls` has who worked, in order."""

    def __init__(self) -> None:
        self.now, self.used, self.calls = 0.0, 0.0, []
        self.clock = Clock(wall=lambda: self.now, cpu=lambda: self.used, settle=self.settle)
        self.queued = 0.0

    def work(self, name: str, wall: float, cpu: float, queued: float = 0.0) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now, self.used, self.queued = self.now + wall, self.used + cpu, self.queued + queued

        return run

    def settle(self) -> None:
        self.now, self.queued = self.now + self.queued, 0.0


def test_paired_takes_turns_and_moves_the_first_place_on() -> None:
    machine = Machine()
    sides = {"a": machine.work("a", 1, 2), "b": machine.work("b", 3, 4), "c": machine.work("c", 5, 6)}
    timings = paired(sides, rounds=3, clock=machine.clock, warmup=1)
    assert "".join(machine.calls) == "abc" + "abc" + "bca" + "cab"
    assert timings == {"a": [Sample(1, 2)] * 3, "b": [Sample(3, 4)] * 3, "c": [Sample(5, 6)] * 3}


def test_what_a_device_still_does_counts_for_who_asked() -> None:
    machine = Machine()
    sides = {"queues": machine.work("queues", 1, 1, queued=9), "waits": machine.work("waits", 1, 1)}
    timings = paired(sides, rounds=2, clock=machine.clock)
    assert [sample.wall for sample in timings["queues"] + timings["waits"]] == [10, 10, 1, 1]


def test_ratio_is_taken_round_by_round() -> None:
    found = ratio([2.0, 30.0, 9.0], [1.0, 10.0, 2.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.5)
    assert str(found) == "3.00 (2.00-4.50)"
    assert found.to_json() == {"median": 3.0, "low": 2.0, "high": 4.5}


def test_process_time_is_read() -> None:
    clock = measure.device_clock(torch.device("cpu"))
    sample = measure.timed(lambda: sum(range(200_000)), clock)
    assert 0 < sample.cpu < 10
    assert 0 < sample.wall < 60


def test_fixed_workload() -> None:
    work = workload.workload(128, tokens=1000, budget=256)
    assert work.lengths == [128] * 7
    assert (work.tokens, work.batch_size, work.sorting_matters) == (896, 2, False)
    assert workload.workload(8192, tokens=1000, budget=256).lengths == [8192]


@pytest.mark.parametrize("name", workload.MIXES)
def test_mixed_workload(name: str) -> None:
    mix = workload.MIXES[name]
    work = workload.workload(name, tokens=64 * mix.mean, budget=8 * mix.mean)
    assert len(work.rows) == 64
    assert work.batch_size == 8
    assert work.sorting_matters
    assert max(work.lengths) <= mix.longest
    assert abs(work.tokens / (64 * mix.mean) - 1) < 0.2
    assert work.lengths == workload.workload(name, 64 * mix.mean, 8 * mix.mean).lengths


def test_both_sides_get_the_same_tokens() -> None:
    work = workload.workload("longtail-512", tokens=3000, budget=500)
    device = torch.device("cpu")
    packed = torch.cat([part.input_ids for part in work.packs(600, device)])
    for ordered in (False, True):
        batches = work.padded(ordered, device)
        real = torch.cat([ids[mask.bool()] for ids, mask in batches])
        assert [len(ids) for ids, _ in batches[:-1]] == [work.batch_size] * (len(batches) - 1)
        assert real.sort().values.equal(packed.sort().values)
    longest = [ids.shape[1] for ids, _ in work.padded(True, device)]
    assert longest == sorted(longest)


@pytest.mark.parametrize("name", [0, True, "variable-9", 1.5])
def test_unknown_length_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="longtail-512"):
        workload.longest(name)  # type: ignore[arg-type]


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="needs Linux' /proc")
def test_peak_memory_is_that_of_the_call() -> None:
    peak = memory.measure(lambda: torch.ones(64, 2**18).sum(), torch.device("cpu"))
    assert 60 * 2**20 < peak < 90 * 2**20


def test_failed_child_shows_its_last_words() -> None:
    assert child.run("calendar", ["2026"]).strip().startswith("2026")
    with pytest.raises(ModernBertError, match=r"json\.tool stopped with status \d+(.|\n)*no-such-file"):
        child.run("json.tool", ["no-such-file"])


AWKWARD = ["a b", "it's", "c:\\d\\", "\\'", "32", "null", "x=y,[z]", "", "ä {b}: $c"]


@pytest.mark.parametrize("value", [None, True, 3, 1e-8, 0.5, [1, "b,c"], {"spam x": 2.0, "a,b": 1}, *AWKWARD])
def test_quoted_values_come_back(value: object) -> None:
    words = [f"task.class_weights={train_suite.quoted(value)}", "task=classification", "data.train=x"]
    assert plain(compose("train", words))["task"]["class_weights"] == value


def test_overrides_give_the_same_configuration() -> None:
    words = ["experiment=clinc150", "data.train=x.csv", "data.test=y.csv", "encoder=ettin-17m", "optim.lr=3e-4"]
    bench = plain(compose("bench_train", [*words, "task.class_weights={a: 2.0}", "seeds=[1,2]"]))
    train = plain(compose("train", train_suite.overrides(bench)))
    own = {"seed", "run_dir", "resume"}
    assert {key: value for key, value in train.items() if key not in own} == {
        key: value for key, value in bench.items() if key not in train_suite.OWN_KEYS
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.layer_decay=0.9", "layer_decay=0.9.*stays 1.0"),
        ("optim.schedule=wsd", "linear or cosine"),
        ("task.loss=focal", "stays cross_entropy"),
        ("data.test=null", "data.test is missing"),
    ],
)
def test_what_cannot_be_compared_is_refused(word: str, message: str) -> None:
    pytest.importorskip("accelerate")
    config = plain(compose("bench_train", ["task=classification", "data.train=x", "data.test=y", word]))
    with pytest.raises(ConfigError, match=message):
        peers.require(config)


def training(side: str, seed: int, seconds: float, accuracy: float) -> dict:
    quality = {"accuracy": accuracy}
    return {
        "side": side, "seed": seed, "seconds": seconds, "cpu_seconds": 2 * seconds, "steps": 9, "quality": quality
    }  # fmt: skip


def test_training_table(capsys: pytest.CaptureFixture) -> None:
    runs = [training("ours", 0, 10, 0.9), training("Trainer", 0, 20, 0.8)]
    runs += [training("Trainer", 1, 33, 0.9), training("ours", 1, 11, 0.7)]
    console.out.cache_clear()
    console.out().print(train_suite.table(runs))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["side", "seed", "steps", "seconds", "CPU", "s", "accuracy"]
    assert lines[1] == ["ours", "0", "9", "10.0", "20.0", "0.9000"]
    assert lines[-2:] == [
        ["ours", "mean", "9", "10.5", "21.0", "0.8000"],
        ["Trainer", "mean", "9", "26.5", "53.0", "0.8500"],
    ]
    assert train_suite.verdict(runs).endswith("wall time 2.50 (2.00-3.00), CPU time 2.50 (2.00-3.00)")


def test_encoder_table(capsys: pytest.CaptureFixture) -> None:
    peer = {"tokens_per_s": 500.0, "wall_s": 2.0, "cpu_s": 2.0, "peak_bytes": 3 * 2**20}
    peer |= {"ratio": {"median": 2.0, "low": 1.9, "high": 2.1}, "cpu_ratio": {"median": 1.8, "low": 1, "high": 2}}
    ours = {"tokens_per_s": 1000.0, "wall_s": 1.0, "cpu_s": 1.0, "peak_bytes": 2 * 2**20}
    sides = {"ours": ours, "transformers padded": peer, "transformers sorted": peer}
    row = {"shape": "base", "layers": 6, "mode": "training", "length": "longtail-512", "ceiling_share": 0.7}
    console.out.cache_clear()
    console.out().print(encoder_suite.table([row | {"sides": sides}]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "base (6 layers)" in lines[1]
    assert "1,000" in lines[1]
    assert "70%" in lines[1]
    assert lines[2].split() == ["transformers", "sorted", "2.00", "(1.90-2.10)", "1.80", "1.50", "x", "2", "MB"]


def test_json_needs_a_folder() -> None:
    report.check_target(None)
    report.check_target(True)
    report.check_target("results.json")
    with pytest.raises(ConfigError, match="no/where"):
        report.check_target("no/where/results.json")
