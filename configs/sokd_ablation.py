"""SoKD taken apart: FitNet alone, with DAFA, with DAM, with both, with a random policy, with one that is not searched.

python launch/train.py --config=configs/sokd_ablation.py:TEACHER,STUDENT --workdir=runs/ablation --config.data.dir=DIR
One teacher; every student starts the same and sees the same batches. FitNet's weight is its own 100 throughout.
"""

from configs import sokd_fitnet
from kd_jax import recipes


def get_config(arg: str = ""):
    """Seven phases: teacher, fitnet, dafa, dam, both, random, unsearched."""
    pair = recipes.argument(arg)
    dafa, dam = sokd_fitnet.part(pair).refine["dafa"], recipes.member("dam")
    refiners = {
        "fitnet": {},
        "dafa": {"dafa": dafa},
        "dam": {"dam": dam},
        "both": {"dam": dam, "dafa": dafa},
        "random": {"dafa": recipes.member("dafa", search_epochs=0, start="random")},
        "unsearched": {"dafa": recipes.member("dafa", search_epochs=0)},
    }
    terms = {"ce": recipes.member("ce"), "fitnet": recipes.member("fitnet")}
    phases = {"teacher": recipes.phase(pair.teacher, terms={"ce": recipes.member("ce")})}
    for name, refine in refiners.items():
        phases[name] = recipes.phase(pair.student, terms=terms, refine=refine, teacher="phase:teacher")
    return recipes.recipe("sokd_ablation", smoke=pair.smoke, **phases)
