"""Logits on which the published functions were run, in float64: the teacher is right, one and two classes above the
label."""

import numpy as np

STUDENT = np.array([[1.0, -0.5, 0.2, 2.0, -1.1], [0.0, 1.25, -0.75, 0.6, 0.3], [2.5, 0.5, -1.0, 0.0, 1.0]])
TEACHER = np.array([[2.0, 0.5, -1.0, 1.0, -0.5], [0.5, 1.0, 3.0, -1.5, 0.0], [-0.5, 2.0, 1.5, 0.25, -2.0]])
LABELS = np.array([0, 1, 3])
PAIR = {"student": STUDENT, "teacher": TEACHER}
LABELLED = {**PAIR, "labels": LABELS}
EXTREME = np.array([[1e4, -1e4, 0.0, 5.0, 1.0], [0.0] * 5, [-3e38, 3e38, 0.0, 1.0, 2.0]])
