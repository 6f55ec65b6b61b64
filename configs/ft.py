"""FT (Kim et al. 2018): CE + 200 FT; a paraphraser learns factors of the teacher's last map, the student to match them.

python launch/train.py --config=configs/ft.py:resnet32x4,resnet8x4 --workdir=runs/ft --config.data.dir=DIR
Phases: teacher, paraphrase (30 epochs; the teacher stays as it is), student. With another teacher than the run's own,
--config.student.teacher=checkpoint:DIR --config.paraphrase.init.student=checkpoint:DIR. Published on CIFAR-100
(RepDistiller): 71.98 from a teacher of 79.42. Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes


def part(pair: recipes.Argument) -> recipes.Part:
    """The paraphraser before; CE + FT after."""
    lr = 0.01 if pair.student.lower().startswith(("resnet", "wrn")) else None  # as RepDistiller has it
    before = recipes.before(pair.teacher, terms={"paraphraser": recipes.member("paraphraser")}, lr=lr)
    before.init.student, before.trains = "phase:teacher", "method"
    terms = {"ce": recipes.member("ce"), "ft": recipes.member("ft")}
    return recipes.Part(terms=terms, before={"paraphrase": before}, changes={"init.method": "phase:paraphrase"})


def get_config(arg: str = ""):
    """Teacher, then its paraphraser, then the student by FT."""
    pair = recipes.argument(arg)
    return recipes.distillation("ft", pair, part(pair))
