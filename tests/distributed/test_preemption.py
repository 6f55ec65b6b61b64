"""Signals that several processes agree on."""

import signal

import pytest

from kd_jax.distributed import preemption, processes


def test_several_ask_each_other_every_few_seconds(monkeypatch):
    """A signal to one is known to both at one step, within PACE; the steps at which they ask are the same, those of the
    slower one's clock."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    rounds, clock = [], [0.0]
    signals = [[], []]
    requests = [
        preemption.StopRequest(received, clock=lambda speed=speed: clock[0] * speed)
        for received, speed in zip(signals, (1, 1.25), strict=True)
    ]

    def step_of_both(step):
        """Both take a step, and both get the maximum of what each brings to a round."""
        brought = []

        def bring(*numbers):
            brought.append(numbers)
            raise InterruptedError

        monkeypatch.setattr(processes, "all_max", bring)
        asking = []
        for request in requests:
            try:
                assert request(step) is None
            except InterruptedError:
                asking.append(request)
        assert len(asking) in (0, 2)  # or one of them would wait for ever
        if not asking:
            return [None, None]
        rounds.append(step)
        together = tuple(max(pair) for pair in zip(*brought, strict=True))
        monkeypatch.setattr(processes, "all_max", lambda *numbers: together)
        return [request(step) for request in requests]

    for step in range(1, 400):
        clock[0] += 0.1
        if step == 201:
            signals[1].append(int(signal.SIGTERM))
        answers = step_of_both(step)
        if any(answers):
            break
    assert answers == [signal.SIGTERM] * 2 and 201 <= step <= 201 + preemption.PACE / 0.1
    assert rounds[:5] == [1, 2, 4, 8, 16] and max(b - a for a, b in zip(rounds, rounds[1:], strict=False)) in (39, 40)
    clock[0] += 1
    assert step_of_both(1) == [signal.SIGTERM] * 2  # a new phase starts at 1, and is asked at once


def test_an_echo_is_no_second_signal(monkeypatch):
    """A scheduler signals every process of a job, so that the one that works gets it twice."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(preemption, "ECHO", 3600.0)
    with preemption.stop_on_signal():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(preemption, "ECHO", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # some who run tests ignore it
    try:
        with pytest.raises(KeyboardInterrupt), preemption.stop_on_signal():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.stop_on_signal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop(1) is None
    finally:
        signal.signal(signal.SIGHUP, before)
