"""What a student learns of its teachers, by hand and against torch."""

import pytest

from finetune_api.objective import ClassificationSpec, RegressionSpec, TokenClassificationSpec
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.regression import Regression
from finetune_trainer.objectives.token_classification import TokenClassification

LABELS = ["a", "b", "c"]
T = 2.0


def one_of_several(**options):
    return Classification.build(ClassificationSpec(**options), LABELS, ["a", "a", "a", "b", "c", "c"])


def any_of_several():
    return Classification.build(ClassificationSpec(multi_label=True), LABELS, [("a",)])


def words():
    return TokenClassification.build(TokenClassificationSpec(), LABELS, [("a", "b", "c")])


def numbers():
    return Regression.build(RegressionSpec(), None, [0.0])


def random(*shape):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def gradient(objective, targets, outputs, shape):
    """Of the loss against the teachers alone, with respect to the student's logits; and these."""
    from finetune_trainer.objectives.distillation import distilled

    logits = random(*shape).requires_grad_()
    distilled(objective, logits, targets, outputs, T, 1.0).loss_sum.backward()
    return logits.grad, logits.detach()


def test_the_gradient_from_one_teacher_is_that_of_the_divergence_by_hand():
    """d/dz of T² KL(p || softmax(z/T)) is T (softmax(z/T) - p)."""
    import torch

    from finetune_trainer.objectives.distillation import taught

    p = taught(one_of_several(), 3 * random(4, 3), T).float()
    found, z = gradient(one_of_several(), torch.tensor([0, 1, 2, 0]), p, (4, 3))
    assert torch.allclose(found, T * ((z / T).softmax(-1) - p), atol=1e-6)


def test_with_several_labels_each_is_a_probability_of_its_own():
    import torch

    from finetune_trainer.objectives.distillation import taught

    p = taught(any_of_several(), 3 * random(4, 3), T).float()
    found, z = gradient(any_of_several(), torch.zeros(4, 3), p, (4, 3))
    assert torch.allclose(found, T * ((z / T).sigmoid() - p), atol=1e-6)


def test_words_without_a_label_teach_nothing():
    import torch

    from finetune_trainer.objectives.distillation import taught

    p = taught(words(), random(2, 4, 3) * 3, T).float()
    targets = torch.tensor([[0, -100, 1, -100], [-100, 2, -100, -100]])
    found, z = gradient(words(), targets, p, (2, 4, 3))
    counted = (targets != -100)[..., None]
    assert torch.allclose(found, T * ((z / T).softmax(-1) - p) * counted, atol=1e-6)


def test_numbers_are_learned_by_their_squared_error():
    import torch

    outputs = random(5, 1) + 4
    found, z = gradient(numbers(), torch.zeros(5), outputs, (5, 1))
    assert torch.allclose(found, 2 * (z - outputs), atol=1e-6)


@pytest.mark.parametrize("weights", ["None", "Balanced"])
def test_labels_and_teachers_share_the_loss(weights):
    """Divided by its weight it is alpha T² KL + (1 - alpha) CrossEntropyLoss, both with the weights of the classes."""
    import torch
    from torch.nn import functional

    from finetune_trainer.objectives.distillation import distilled, taught

    objective = one_of_several(class_weights=weights, label_smoothing=0.1)
    z, targets = random(6, 3), torch.tensor([0, 1, 2, 2, 0, 0])
    p = taught(objective, 2 * random(3, 6).reshape(6, 3), T).float()
    given = torch.tensor(objective.class_weights or (1.0, 1.0, 1.0))
    each = (p * (p.log() - (z / T).log_softmax(-1))).sum(-1)
    soft = T**2 * (each * given[targets]).sum() / given[targets].sum()
    hard = functional.cross_entropy(z, targets, weight=given, label_smoothing=0.1)
    found = distilled(objective, z, targets, p, T, 0.3)
    assert (found.loss_sum / found.weight).item() == pytest.approx((0.3 * soft + 0.7 * hard).item(), rel=1e-5)


def test_a_student_that_answers_as_its_teachers_has_nothing_to_learn_from_them():
    import torch

    from finetune_trainer.objectives.distillation import distilled, taught

    z = torch.tensor([[200.0, -200.0, 0.0], [0.0, 0.0, 0.0]])  # probabilities of 0 and 1
    for objective, targets in (
        (one_of_several(), torch.tensor([0, 1])),
        (any_of_several(), torch.ones(2, 3)),
    ):
        p = taught(objective, z, T).float()
        assert distilled(objective, z, targets, p, T, 1.0).loss_sum.item() == pytest.approx(0, abs=1e-5)
