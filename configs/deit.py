"""DeiT (Touvron et al. 2020): 0.5 CE of the class token + 0.5 CE of the distillation token with the teacher's label.

python launch/train.py --config=configs/deit.py --workdir=runs/deit --config.data.dir=DIR
Both networks are trained by its recipe: mixup 0.8, CutMix 1, smoothing 0.1, random erasing 0.25, stochastic depth 0.1
(transformers), AdamW that decays kernels alone, warm-up and cosine; a teacher that is there already:
--config.teacher.weights=FILE. Left out: RandAugment, repeated augmentation, its average of the weights, bicubic crops;
the cosine ends at 0, not at 1e-5. The soft form: --config.student.terms.deit.distillation=soft. The published student
reaches 74.5 from a RegNetY-16GF, 72.2 alone (DeiT's README). Not yet repeated by us: no GPU run.
"""

from kd_jax import recipes

PAIR = ("vit_small_patch16_224", "deit_tiny_distilled_patch16_224")


def get_config(arg: str = ""):
    """Teacher, then student by its distillation token."""
    pair = recipes.argument(arg, default=PAIR)
    teacher = recipes.phase(pair.teacher, terms={"ce": recipes.member("ce", smoothing=0.1)})
    terms = {"ce": recipes.member("ce", weight=0.5, smoothing=0.1), "deit": recipes.member("deit")}
    student = recipes.phase(pair.student, terms=terms, teacher="phase:teacher")
    for phase in (teacher, student):
        if recipes.is_transformer(phase.model):
            phase.optim.decay_all, phase.drop_path = False, 0.1
    config_dict = recipes.recipe("deit", smoke=pair.smoke, teacher=teacher, student=student)
    config_dict.data.mix.update({"mixup": 0.8, "cutmix": 1.0})
    config_dict.data.erase.probability = 0.25
    return config_dict
