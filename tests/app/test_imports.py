"""Imports without the collector: it is on again afterwards, whatever the import did."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from app.imports import import_heavy


def test_the_collector_rests_during_an_import_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "asks_the_collector.py").write_text("import gc\nENABLED = gc.isenabled()\n")
    (tmp_path / "breaks_on_import.py").write_text("raise ValueError('no')\n")
    assert import_heavy("asks_the_collector").ENABLED is False
    assert gc.isenabled()
    with pytest.raises(ValueError, match="no"):
        import_heavy("breaks_on_import")
    assert gc.isenabled()
    assert "breaks_on_import" not in sys.modules


def test_who_turned_it_off_finds_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "another_module.py").write_text("")
    gc.disable()
    try:
        import_heavy("another_module")
        assert not gc.isenabled()
    finally:
        gc.enable()
