"""How the signals that end a command end it."""

from __future__ import annotations

import signal

import pytest

from squeezebert_fast.signals import ENDING, ending_in_order


@pytest.mark.parametrize("sent", ENDING)
def test_the_exit_code_is_the_signals_whatever_fails_while_clearing_up(sent: signal.Signals) -> None:
    @ending_in_order()
    def command() -> None:
        try:
            signal.raise_signal(sent)
        finally:
            raise BrokenPipeError

    before = signal.signal(sent, signal.SIG_DFL)  # nohup, and what it starts, ignores SIGHUP
    try:
        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == 128 + sent
        assert signal.getsignal(sent) == signal.SIG_DFL
    finally:
        signal.signal(sent, before)


def test_what_fails_without_a_signal_is_as_it_was() -> None:
    with pytest.raises(BrokenPipeError), ending_in_order():
        raise BrokenPipeError
