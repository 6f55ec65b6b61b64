"""Whether a phase's training can read its teachers' logits from a cache (kd_jax.train.teacher_cache) in their place."""

from collections.abc import Mapping

from kd_jax import config
from kd_jax.distributed import processes
from kd_jax.models.outside import LogitsTable
from kd_jax.plan.teachers import Teacher
from kd_jax.typing import Distiller, InputError

MORE_THAN_LOGITS = "teacher."  # the needs that begin so


def why_not_cached(
    recipe: config.Recipe, phase: config.Phase, members: Mapping[str, Distiller], teachers: tuple[Teacher, ...]
) -> str | None:
    """Why the teachers of a phase have to run at every step, as a clause that names the key; None where they need not.

    Only a finite number of views of every image can be kept, and of these only the logits; those of views that are
    augmented more strongly (`kd_jax.typing.extra_view`) are computed at every step in any case.

    Args:
      recipe, phase: validated.
      members: label -> refiner or criterion of the phase.
      teachers: of the phase.
    """
    for label, member in members.items():
        features = sorted(need for need in member.needs if need.startswith(MORE_THAN_LOGITS))
        if features:
            reads = f"reads more of its teacher than logits ({', '.join(features)})"
            return f"{phase.member_key(label)} {reads}"
        if member.search:
            return f"{phase.member_key(label)} searches a policy, by batches in an order of its own"
    for teacher in teachers:
        if teacher.load is None:
            return f"config.{phase.name}.teacher={teacher.origin} changes at every step"
    if teachers and not any(map(is_cacheable, teachers)):
        return f"config.{phase.name}.teacher={','.join(phase.teacher)} is a table of logits already"
    if recipe.data.crop:
        return f"config.data.crop={recipe.data.crop} draws crops at random, so that hardly any view comes twice"
    if recipe.data.mix.is_on:
        return "config.data.mix mixes images at random, so that hardly any comes twice"
    if recipe.data.erase.probability:
        return "config.data.erase erases parts of images at random, so that hardly any comes twice"
    if processes.count() > 1:
        return f"{processes.count()} processes train together, and a cache is for one"
    return None


def check_cacheable(recipe: config.Recipe, why_not: str | None) -> None:
    """Refuse `teacher_cache` where `why_not_cached` has a reason.

    Raises:
      InputError: with that reason.
    """
    if recipe.teacher_cache and why_not and not recipe.teacher_cache_optional:
        accepted = "empty, or --config.teacher_cache_optional"
        raise InputError(f"config.teacher_cache: {recipe.teacher_cache}, but {why_not}; accepted: {accepted}")


def is_cacheable(teacher: Teacher) -> bool:
    """Whether a teacher's logits are worth keeping: a table of logits is one already."""
    return not isinstance(teacher.network.model, LogitsTable)
