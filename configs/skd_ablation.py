"""SKD taken apart: KD, tuned KD, DKD, and SKD's softening constant and annealed, with its simplifier and without.

python launch/train.py --config=configs/skd_ablation.py:resnet20,resnet8 --workdir=runs/parts --config.data.dir=DIR
One teacher; every student starts the same and sees the same batches. Temperatures and weights are those of small data
(docs/evidence.md), not those of the papers' pairs.
"""

from kd_jax import recipes

SOFT = {"simplifier": "none"}
FALLING = {"temperature": 8.0, "anneal_to": 1.0}


def get_config(arg: str = ""):
    """The teacher, and nine students: kd, tuned, dkd, both_sides, softened, skd, annealed, annealed_skd, degree."""
    pair = recipes.argument(arg)
    ce = recipes.member("ce")
    soft_kd = {"ce": ce, "kd": recipes.member("kd", weight=20.0)}
    terms = {
        "kd": {"ce": recipes.member("ce", weight=0.1), "kd": recipes.member("kd", weight=0.9)},
        "tuned": {"ce": ce, "kd": recipes.member("kd", weight=2.0)},
        "dkd": {"ce": ce, "dkd": recipes.member("dkd", warmup_epochs=0 if pair.smoke else 2)},
    }
    refiners = {
        "both_sides": {**SOFT, **FALLING, "student_temperature": None},  # KD with a temperature that falls
        "softened": SOFT,
        "skd": {},
        "annealed": {**SOFT, **FALLING},
        "annealed_skd": FALLING,
        "degree": {**FALLING, "simplifier": "degree", "rate": 1.0},
    }
    phases = {"teacher": recipes.phase(pair.teacher, terms={"ce": ce})}
    phases |= {name: recipes.phase(pair.student, terms=of, teacher="phase:teacher") for name, of in terms.items()}
    for name, how in refiners.items():
        of, refine = terms["tuned"] if name == "both_sides" else soft_kd, {"skd": recipes.member("skd", **how)}
        phases[name] = recipes.phase(pair.student, terms=of, refine=refine, teacher="phase:teacher")
    return recipes.recipe("skd_ablation", smoke=pair.smoke, **phases)
