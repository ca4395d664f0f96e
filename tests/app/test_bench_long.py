"""`modernbert bench long` from its command line to its JSON, on an encoder of three layers."""

from __future__ import annotations

import json

import pytest

from app import cli
from app.bench import flops, long_suite, shapes
from app.bench.shapes import Shape


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", Shape(32, 3, 2, 48, tokens=400))
    monkeypatch.setitem(flops.CEILING_SIDE, "cpu", 64)
    monkeypatch.setattr(long_suite, "COMPARED", (64, 256))


def test_lengths_of_a_shape_are_compared(capsys: pytest.CaptureFixture) -> None:
    words = ["shapes=[tiny]", "lengths=[64,256]", "modes=[inference]", "rounds=2", "device=cpu", "memory=[]", "--json"]
    assert cli.main(["bench", "long", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["suite"] == "long"
    assert [(row["length"], row["layers"]) for row in found["rows"]] == [(64, 3), (256, 3)]
    (cost,) = found["token_costs"]
    short, long = (row["sides"] for row in found["rows"])
    for name in ("ours", "transformers"):
        ratio = short[name]["tokens_per_s"] / long[name]["tokens_per_s"]
        assert cost["sides"][name] == pytest.approx(ratio, abs=1e-3)
    # One layer of three is global: of 4 * 32 a pair, three layers of 2 * (4 * 32 * 32 + 3 * 32 * 48) operations.
    assert 1 < cost["operations"] < 1.5
    sentence = long_suite.sentence(cost)
    assert "a token of a text of 256 tokens" in sentence


def test_what_was_not_measured_is_not_compared() -> None:
    row = {"shape": "tiny", "mode": "inference", "length": 256, "sides": {}, "operations_ratio": 1.0}
    assert long_suite.token_costs([row]) == []
