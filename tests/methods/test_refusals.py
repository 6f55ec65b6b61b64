"""What all methods refuse alike: arguments out of range, and networks whose stages or maps they cannot read."""

import jax
import pytest

import kd_jax
from kd_jax import InputError, methods, models
from kd_jax.models.vit import VisionTransformer

SHAPE = (8, 8, 3)
NETWORKS = {
    "maps": models.create("resnet8", 5, widths=(4, 4, 8, 8)),
    "tokens": VisionTransformer(width=8, heads=2, blocks=(1, 1, 1), patch=4, num_classes=5),
}
ON_MAPS = ("ab", "fsp", "ft", "ofd", "reviewkd", "simkd", "sp")


def init(name, student, teacher):
    """Variables of a method at its defaults."""
    context = kd_jax.make_init_context(NETWORKS[student], (NETWORKS[teacher],), image_shape=SHAPE, batch_size=2)
    context = context._replace(student=None)  # SimKD: the stages count here, not whether the student is a graft
    return methods.CRITERIA[name]().init(jax.random.key(0), context)


@pytest.mark.parametrize("name", ON_MAPS)
@pytest.mark.parametrize("seat", ["student", "teacher"])
def test_methods_on_maps_refuse_tokens(name, seat):
    networks = {"student": "maps", "teacher": "maps"} | {seat: "tokens"}
    wanted = rf"^{name}: needs feature maps \(B, H, W, C\), but the {seat}'s stages are tokens$"
    with pytest.raises(InputError, match=wanted):
        init(name, **networks)


def test_a_paraphraser_reads_the_network_in_training_alone():
    with pytest.raises(InputError, match="^paraphraser: needs feature maps .* but the student's stages are tokens$"):
        init("paraphraser", "tokens", "maps")
    assert jax.eval_shape(lambda: init("paraphraser", "maps", "tokens")).params


@pytest.mark.parametrize("name", ["fitnet", "at", "nst", "kdsvd", "vid"])
def test_methods_that_read_tokens_as_maps_accept_them(name):
    jax.eval_shape(lambda: init(name, "tokens", "tokens"))


def test_class_activation_maps_are_needed():
    for networks, seat in ((("tokens", "maps"), "student"), (("maps", "tokens"), "teacher")):
        with pytest.raises(InputError, match=f"^cat_kd: needs class activation maps, which the {seat} has not$"):
            init("cat_kd", *networks)


@pytest.mark.parametrize("call", [
    lambda: methods.kd(temperature=0.0),
    lambda: methods.kd(weight=float("nan")),
    lambda: methods.chain(kd=methods.kd),
    lambda: methods.skd(bound=0.1, residual=False),
    lambda: methods.dml(peer="resnet9"),
    lambda: methods.sftn_branches(stages=("1-1",)),
    lambda: methods.dafa(stages=(-1,)),
    lambda: methods.mlld(temperatures=(0.0,)),
    lambda: methods.dkd().init(None, kd_jax.InitContext(None, 2)),
])  # fmt: skip
def test_arguments_that_are_not_accepted_are_input_errors(call):
    with pytest.raises(InputError) as e:
        call()
    assert "\n" not in str(e.value)
