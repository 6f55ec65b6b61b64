"""Keywords of factories: which a configuration can hold, and how they go through it."""

import json
from collections.abc import Callable

import pytest

from kd_jax import InputError, config, methods, recipes
from tests.conftest import tree


def custom(
    *, weight: float = 1.0, stages: tuple[int, ...] = (1, 2), names: tuple[str, ...] | None = None, on: bool = True
):  # fmt: skip
    """A criterion of a user's own."""
    return methods.ce(weight=weight)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(methods.CRITERIA, "custom", custom)


@pytest.mark.parametrize("kind", [*methods.REFINERS, *methods.CRITERIA])
def test_every_method_can_stand_in_a_configuration(kind):
    for name, keyword in recipes.signature(kind).items():
        assert config.typed(keyword.default, keyword.type, name) == keyword.default


def test_types_and_defaults():
    def some(*, a: int = 1, b: float | Callable = 2.0, c: "str | None" = None, d: tuple[float, ...] = ()):
        """No method."""

    assert {name: tuple(k) for name, k in recipes.keywords(some).items()} == {
        "a": (int, False, 1), "b": (float, False, 2.0), "c": (str, True, None), "d": (tuple[float, ...], False, ()),
    }  # fmt: skip


def refused():
    def a_list(*, stages: list[int] = []): ...  # noqa: B006
    def a_dict(*, table: dict = {}): ...  # noqa: B006
    def nested(*, pairs: tuple[tuple[int, int], ...] = ()): ...
    def fixed(*, pair: tuple[int, int] = (1, 2)): ...
    def a_bare_tuple(*, stages: tuple = ()): ...
    def two_kinds(*, width: int | str = 3): ...
    def only_a_function(*, loss: Callable | None = None): ...
    def no_type(*, width=3): ...
    def no_default(*, width: int): ...
    def anything(**kwargs: int): ...

    return list(locals().values())


@pytest.mark.parametrize("factory", refused(), ids=lambda f: f.__name__)
def test_other_keywords_are_refused_in_words(factory, monkeypatch):
    with pytest.raises(InputError, match=f"^{factory.__name__}: keyword ") as e:
        recipes.keywords(factory)
    assert "\n" not in str(e.value)
    monkeypatch.setitem(methods.CRITERIA, "mine", factory)
    for use in (recipes.signature, recipes.member):
        with pytest.raises(InputError, match=f"^{factory.__name__}: keyword "):
            use("mine")


def test_the_message_says_what_is_accepted():
    def hint(*, stages: list[int] = ()):
        """No method."""

    accepted = "accepted: bool, int, float, str, or tuple[x, ...] of one of these; or one of these | None"
    with pytest.raises(InputError) as e:
        recipes.keywords(hint)
    assert str(e.value) == f"hint: keyword stages: has the type list[int]; {accepted}"


def test_a_tuple_goes_through_a_configuration(registered):
    member = recipes.member("custom")
    assert member.to_dict() == {
        "kind": "custom", "warmup_epochs": 0.0, "teacher": None,
        "weight": 1.0, "stages": (1, 2), "names": None, "on": True,
    }  # fmt: skip
    member.names = ("a",)
    member.names = None
    for wrong in ("stages", "names"):
        with pytest.raises(TypeError):
            member[wrong] = 3
    for given in ((3,), [3], "3", "(3,)"):
        assert recipes.member("custom", stages=given).stages == (3,)
    with pytest.raises(InputError, match="custom.stages: must be int, got 'x'"):
        recipes.member("custom", stages="x")


@pytest.mark.parametrize("spelled", ["(1, 3)", "1,3", "[1, 3]"])
def test_a_tuple_on_the_command_line(registered, spelled):
    config_dict = recipes.Config(tree(student__terms__custom=recipes.member("custom")))
    config.override(config_dict, [f"--config.student.terms.custom.stages={spelled}"])
    written = json.loads(json.dumps(config_dict.to_dict()))  # config.json
    for form in (config_dict.to_dict(), written):
        members = {m.label: m for m in config.parse(form).phases[1].terms}
        keyword = recipes.signature("custom")["stages"]
        assert config.typed(members["custom"].kwargs["stages"], keyword.type, "key") == (1, 3)
