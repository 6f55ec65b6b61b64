"""The types that a configuration has, as a config file, a command line and config.json spell them."""

import json

import pytest

from kd_jax import InputError, config


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ([1, 2], tuple[int, ...], (1, 2)),
        ((), tuple[int, ...], ()),
        ("1,2", tuple[int, ...], (1, 2)),
        ("2", tuple[int, ...], (2,)),
        ("", tuple[int, ...], ()),
        ("3,5", tuple[float, ...], (3.0, 5.0)),
        ((3, 5.5), tuple[float, ...], (3.0, 5.5)),
        ("1:1,2:2", tuple[str, ...], ("1:1", "2:2")),
        ("1", tuple[str, ...], ("1",)),
        ("('1', '2:2')", tuple[str, ...], ("1", "2:2")),
        ("True, False", tuple[bool, ...], (True, False)),
        (None, tuple[int, ...] | None, None),
        ([4], tuple[int, ...] | None, (4,)),
        (None, None | int, None),
        (3, None | int, 3),
        (3, float, 3.0),
        ({"a": 1}, dict[str, int], {"a": 1}),
    ],
)
def test_typed(value, kind, expected):
    result = config.typed(value, kind, "key")
    assert result == expected and type(result) is type(expected)
    if isinstance(expected, tuple):
        assert [type(v) for v in result] == [type(v) for v in expected]
        assert config.typed(json.loads(json.dumps(result)), kind, "key") == expected  # as config.json has it


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1,a", tuple[int, ...]),
        ("(1, 2", tuple[int, ...]),
        (3, tuple[int, ...]),
        ([[1]], tuple[int, ...]),
        ([True], tuple[int, ...]),
        ([1.5], tuple[int, ...]),
        ([None], tuple[str, ...]),
        ((1,), tuple[str, ...]),
        ("1", int),
        (True, float),
        ({"a": "b"}, dict[str, int]),
    ],
)
def test_what_is_refused(value, kind):
    with pytest.raises(InputError, match="config.some.key.*: must be "):
        config.typed(value, kind, "some.key")


def test_the_key_stands_before_what_is_refused():
    def refuse(message):
        raise InputError(message)

    with pytest.raises(InputError, match="^config.student.model: unknown$"):
        config.config_key("student.model", refuse, "unknown")
    with pytest.raises(InputError, match="^config.student.terms.kd: out of range$"):  # the nearer key counts
        config.config_key("student", config.config_key, "student.terms.kd", refuse, "out of range")


@pytest.mark.parametrize("error", [ValueError, ArithmeticError, RuntimeError, TypeError])
def test_a_fault_of_the_code_is_no_fault_of_the_key(error):
    def fail():
        raise error("ours")

    with pytest.raises(error, match="^ours$") as e:
        config.config_key("student.model", fail)
    assert not isinstance(e.value, InputError)
