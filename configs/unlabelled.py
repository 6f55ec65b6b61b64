"""Images without labels: KD alone, from a teacher that is there already.

python launch/train.py --config=configs/unlabelled.py:imagenet_ResNet18 --workdir=runs/mine
    --config.data.name=folder:DIR --config.data.size=224 --config.data.classes=1000
    --config.student.teacher=weights:FILE.pth
DIR holds images, in folders or not. data.classes is the number of the teacher's classes. No term reads labels, and the
headline is how often the student says what the teacher says. Mixed images (data.mix) are labelled by the teacher too.
With smoke the teacher is the average of the student, since there is no file.
"""

from kd_jax import recipes

ARGUMENT = "STUDENT"  # for launch/list.py


def get_config(arg: str = ""):
    """One phase."""
    names, smoke = recipes.words(arg)
    if len(names) > 1:
        raise recipes.InputError(f"config argument {arg!r}: give STUDENT and, if wanted, smoke")
    student = recipes.phase((names or ["resnet8x4"])[0], terms={"kd": recipes.member("kd")})
    if smoke:
        student.teacher, student.ema = "ema", 0.999
    config_dict = recipes.recipe("unlabelled", smoke=smoke, student=student)
    config_dict.data.labels = False
    return config_dict
