"""Signs of life over a store, one exchange and one tick of silence at a time: no clock, no second process."""

import threading

import jax
import pytest

from kd_jax.distributed import heartbeat
from kd_jax.distributed.heartbeat import BEAT, LEAVE, PATIENCE, TICK, Heartbeat


class Store:
    """The part of JAX's key-value store that is used; `answers` is False where process 0 is gone."""

    def __init__(self):
        self.values, self.answers = {}, True

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        self._check()
        self.values[key] = value

    def key_value_dir_get(self, folder):
        self._check()
        return [(key, value) for key, value in self.values.items() if key.startswith(folder + "/")]

    def _check(self):
        if not self.answers:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")


@pytest.fixture
def hearts(monkeypatch):
    """Three processes on one store; the end of a process is SystemExit."""

    def end(code):
        raise SystemExit(code)

    monkeypatch.setattr(heartbeat.os, "_exit", end)
    store = Store()
    return store, [Heartbeat(store, i, 3) for i in range(3)]


def live(hearts, alive, seconds):
    """Let time pass; the processes of `alive` give signs, and all of them count."""
    for tick in range(int(seconds / TICK)):
        for i in alive:
            if tick % int(BEAT / TICK) == 0:
                try:
                    hearts[i].exchange()
                except jax.errors.JaxRuntimeError:
                    pass
        for i in alive:
            hearts[i].tick()


def test_nobody_ends_while_all_live(hearts, capsys):
    live(hearts[1], (0, 1, 2), 3 * PATIENCE)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lost", [1, 2])
def test_a_silent_process_ends_the_others(hearts, capsys, lost):
    live(hearts[1], (0, 1, 2), 10)
    alive = [i for i in range(3) if i != lost]
    live(hearts[1], alive, PATIENCE - 2 * BEAT)
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit, match="1"):
        live(hearts[1], alive, 2 * BEAT + 1)
    line = capsys.readouterr().err
    assert line.startswith("error: process ") and line.endswith(
        f" of 3: process {lost} is gone (no sign of life for 30 seconds); "
        "started again, all of them resume from the last checkpoint\n"
    )


@pytest.mark.parametrize("refuses", [True, False])
def test_process_0_is_blamed_where_the_store_does_not_answer(hearts, capsys, refuses):
    """Whether calls fail, or hang (then nothing is exchanged at all)."""
    store, (_, one, two) = hearts
    live(hearts[1], (0, 1, 2), 10)
    two.exchange()  # its last sign is newer than that of process 0
    one.exchange()
    store.answers = False
    with pytest.raises(SystemExit, match="1"):
        if refuses:
            live(hearts[1], (1,), PATIENCE + 1)
        for _ in range(int(PATIENCE / TICK) + 1):
            one.tick()
    assert "process 1 of 3: process 0 is gone" in capsys.readouterr().err


def check(heart):
    """check_others in a thread, since it waits for exchanges; returns the thread."""
    thread = threading.Thread(target=heart.check_others, daemon=True)
    thread.start()
    return thread


def test_a_local_error_blames_nobody(hearts, capsys, monkeypatch):
    monkeypatch.setattr(heartbeat, "TICK", 0.01)
    live(hearts[1], (0, 1, 2), 10)
    _, (zero, one, two) = hearts
    checking = check(zero)
    for heart in (one, two, zero):
        heart.exchange()
    checking.join(timeout=0.3)
    assert checking.is_alive()  # these signs may be older than the error
    one.exchange()
    zero.exchange()
    checking.join(timeout=0.3)
    assert checking.is_alive()  # 2 has given one only
    two.exchange()
    zero.exchange()
    checking.join(timeout=60)
    assert not checking.is_alive() and capsys.readouterr().err == ""


def test_a_process_that_has_ended_is_named_with_its_exit_code(hearts, capsys, monkeypatch):
    monkeypatch.setattr(heartbeat, "TICK", 0.01)
    live(hearts[1], (0, 1, 2), 1)
    _, (zero, one, _) = hearts
    one.start()
    one.leave(2)
    one.stop()
    zero.exchange()
    with pytest.raises(SystemExit, match="1"):
        zero.check_others()
    assert capsys.readouterr().err.startswith(
        "error: process 0 of 3: process 1 has ended with exit code 2, its own message says why; started again"
    )


def test_process_0_ends_last(hearts, monkeypatch):
    """Its end aborts the others; they have LEAVE seconds, and end by themselves in half of that."""
    _, (zero, one, two) = hearts
    monkeypatch.setattr(heartbeat, "BEAT", 0.01)
    monkeypatch.setattr(heartbeat, "TICK", 0.01)
    monkeypatch.setattr(heartbeat, "LEAVE", 1e6)
    zero.start()
    leaving = threading.Thread(target=zero.leave, args=(143,), daemon=True)
    leaving.start()
    for heart in (one, two):
        leaving.join(timeout=0.2)
        assert leaving.is_alive()
        heart.start()
        heart.leave(143)
        heart.stop()
    leaving.join(timeout=60)
    assert not leaving.is_alive()
    zero.stop()


def test_the_others_do_not_wait_to_be_cut_off(hearts, capsys, monkeypatch):
    _, (zero, one, _) = hearts
    live(hearts[1], (0, 1, 2), 4)
    zero.start()
    monkeypatch.setattr(heartbeat, "LEAVE", 0.0)
    zero.leave(1)
    zero.stop()
    monkeypatch.setattr(heartbeat, "LEAVE", LEAVE)
    live(hearts[1], (1, 2), LEAVE / 2 - 1)
    with pytest.raises(SystemExit, match="1"):
        live(hearts[1], (1, 2), 2)
    assert "process 1 of 3: process 0 has ended with exit code 1" in capsys.readouterr().err
