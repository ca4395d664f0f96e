"""A signal asks between two steps, stops elsewhere, and stops at once when it comes twice."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from app.signals import Signals, Stopped


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_between_steps_it_is_kept_for_the_next_one(number: int, capfd: pytest.CaptureFixture) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        signals.between_steps = True
        send(number)
        assert signals.received == number
        assert "stopping after this step" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stopped):
            send(number)
    assert signal.getsignal(number) == before


def test_elsewhere_it_stops() -> None:
    with Signals() as signals:
        with pytest.raises(Stopped, match="SIGTERM") as stopped:
            send(signal.SIGTERM)
        assert stopped.value.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signals.received is None


def test_it_takes_the_signals_back_from_a_library() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.listen()
        signals.between_steps = True
        send(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_takes_none() -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=Signals().listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
