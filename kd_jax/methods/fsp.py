"""FSP, flow of the solution procedure: the relation of neighbouring stages is to be the teacher's.

    sum_i mean( (G_i(f_S) - G_i(f_T))^2 ),   G_i = mean over H and W of f_i f_(i+1)^T

FSP trains in a phase of its own, before the student's.
"""

from kd_jax import losses
from kd_jax.methods.base import no_vars, weigh
from kd_jax.methods.stages import NEEDS, masked, require_maps, require_stages
from kd_jax.methods.terms import criterion
from kd_jax.typing import Array, Distiller, InitContext, InputError, Schedule, Terms, Vars, View


def fsp(*, weight: float | Schedule = 1.0) -> Distiller:
    """FSP: the channels of a student's stage are to go with those of the next one as the teacher's do.

        weight sum_i mean( (G_i(f_S) - G_i(f_T))^2 ),   G_i = mean over H and W of f_i f_(i+1)^T

    All stages are read, the stem too, each with the next. Both networks must be equally wide. Nothing is detached
    here. Of several teachers the first is read. Where a refiner has set `view.spatial_mask`, both maps are multiplied
    by it.

    As published it is the only term of a phase before the student's: it trains the student up to its last stage,
    and the next phase starts from there (init.student="phase:NAME") with `ce` alone.

    Args:
      weight: a number, or a schedule of the step. The published script has 50, for the later phase, where the term
        is not used.

    Raises:
      InputError: stages of other widths, or a network without a stage behind the stem or with tokens, when variables
        are made.

    Reference: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and
      Transfer Learning", 2017.
    Differs: networks with different numbers of stages are aligned from the output side; the published code refuses
      them.
    """

    def terms(view: View) -> Terms:
        students, teachers = ([masked(view, f) for f in maps] for maps in _stages(view))
        return {"": losses.fsp(students=students, teachers=teachers)}

    return weigh(criterion(terms, NEEDS, _init), weight)


def _stages(view: View) -> list[tuple[Array, ...]]:
    """The stages of student and teacher with the stem; of the longer network the last ones."""
    networks = view.student.stages, view.teachers[0].stages
    count = min(map(len, networks))
    return [maps[len(maps) - count :] for maps in networks]


def _init(key: Array, context: InitContext) -> Vars:
    require_maps("fsp", context)
    require_stages("fsp", context)
    student, teacher = (", ".join(str(f.shape[-1]) for f in maps) for maps in _stages(context.view_shapes))
    if student != teacher:
        raise InputError(f"fsp: stages of equal widths wanted, the student has {student}, the teacher {teacher}")
    return no_vars(key, context)
