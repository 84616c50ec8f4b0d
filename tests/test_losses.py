"""Losses equal slow loops in float64; gradients go where they should and nowhere else."""

import numpy as np
import pytest
import references
import torch
from torch.nn import functional as F

from lib import losses
from lib.consensus import NONE

SIZES = [(1, 2, 0), (7, 2, 1), (16, 5, 2), (33, 9, 3)]
each_size = pytest.mark.parametrize(("batch", "n_classes", "seed"), SIZES)


def random_logits(batch, n_classes, seed, scale=3.0):
    chance = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, n_classes, generator=chance, dtype=torch.float64)


def random_labels(batch, n_classes, seed):
    return torch.randint(n_classes, (batch,), generator=torch.Generator().manual_seed(seed + 50))


@each_size
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 0.95, 1.0])
def test_cross_supervision_is_the_equation(batch, n_classes, seed, threshold):
    own, partner = random_logits(batch, n_classes, seed), random_logits(batch, n_classes, seed + 9)
    found = losses.cross_supervision(own, partner, threshold)
    expected = references.cross_supervision(own.tolist(), partner.tolist(), threshold)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_a_probability_at_the_threshold_is_not_above_it():
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    assert losses.confident_labels(logits, 0.5).tolist() == [NONE, 0]
    certain = torch.tensor([[1e9, 0.0]])
    assert losses.confident_labels(certain, 1.0).tolist() == [NONE]


def test_the_mean_is_over_the_whole_batch():
    own = random_logits(4, 3, 0)
    partner = torch.zeros_like(own)
    partner[0, 1] = 20
    found = losses.cross_supervision(own, partner, 0.95)
    assert found.item() == pytest.approx(F.cross_entropy(own[:1], torch.tensor([1])).item() / 4)


def test_no_gradient_reaches_the_partner():
    own = random_logits(16, 3, 0).requires_grad_()
    partner = random_logits(16, 3, 1).requires_grad_()
    losses.cross_supervision(own, partner, 0.5).backward()
    assert partner.grad is None and own.grad.abs().sum() > 0


def test_unsure_tiles_give_no_gradient():
    own = random_logits(16, 3, 0).requires_grad_()
    partner = random_logits(16, 3, 1, scale=1)
    losses.cross_supervision(own, partner, 0.6).backward()
    sure = torch.softmax(partner, 1).max(1).values > 0.6
    assert 0 < sure.sum() < 16
    assert torch.equal(own.grad.abs().sum(1) > 0, sure)


def test_an_empty_batch_costs_nothing():
    own = torch.zeros(0, 3, requires_grad=True)
    loss = losses.cross_supervision(own, own, 0.5)
    loss.backward()
    assert loss.item() == 0


@each_size
@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_generalised_cross_entropy_is_the_equation(batch, n_classes, seed, q):
    logits, labels = random_logits(batch, n_classes, seed), random_labels(batch, n_classes, seed)
    found = losses.generalised_cross_entropy(logits, labels, q)
    expected = references.generalised_cross_entropy(logits.tolist(), labels.tolist(), q)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_generalised_cross_entropy_nears_cross_entropy_and_survives_a_probability_of_zero():
    logits, labels = random_logits(16, 4, 0), random_labels(16, 4, 0)
    near = losses.generalised_cross_entropy(logits, labels, 1e-6)
    assert near.item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-4)
    hopeless = torch.tensor([[1e4, 0.0]], requires_grad=True)
    losses.generalised_cross_entropy(hopeless, torch.tensor([1])).backward()
    assert torch.isfinite(hopeless.grad).all()


@each_size
def test_early_learning_regularisation_is_the_equation_over_several_steps(batch, n_classes, seed):
    objective = losses.EarlyLearningRegularisation(50, n_classes).double()
    targets = np.zeros((2, 50, n_classes)).tolist()
    for step in range(4):
        both = [random_logits(batch, n_classes, seed + 10 * step + k, scale=1) for k in (0, 1)]
        labels = random_labels(batch, n_classes, seed)
        rows = torch.randperm(50, generator=torch.Generator().manual_seed(step))[:batch]
        found, _ = objective(both, labels, rows, 0.0)
        expected = [
            references.early_learning_regularisation(
                own.tolist(), labels.tolist(), of, rows.tolist(), 3.0, 0.7
            )
            for own, of in zip(both, targets, strict=True)
        ]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(objective.targets.numpy(), targets, atol=1e-12)


def test_early_learning_regularisation_stays_finite_for_a_certain_network():
    objective = losses.EarlyLearningRegularisation(1, 2)
    logits = torch.tensor([[50.0, -50.0]], requires_grad=True)
    for _ in range(60):
        loss, _ = objective([logits, logits], torch.tensor([0]), torch.tensor([0]), 0.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def hcs(outputs, labels, progress=1.0, **settings):
    objective = losses.HighConfidenceCrossSupervision(**settings)
    return objective(outputs, labels, torch.arange(len(labels)), progress)


def two_outputs():
    return [random_logits(20, 3, seed).requires_grad_() for seed in (0, 1)], random_labels(8, 3, 0)


def test_the_objective_adds_both_parts_for_each_network():
    (a, b), labels = two_outputs()
    (loss_a, loss_b), pseudo = hcs([a, b], labels, threshold=0.8, weight=0.3)
    for loss, own, partner in ((loss_a, a, b), (loss_b, b, a)):
        known = references.cross_entropy(own[:8].tolist(), labels.tolist())
        rest = references.cross_supervision(own[8:].tolist(), partner[8:].tolist(), 0.8)
        assert loss.item() == pytest.approx(known + 0.3 * rest, abs=1e-6)
    expected = [losses.confident_labels(own[8:], 0.8).tolist() for own in (a, b)]
    assert pseudo.tolist() == expected


def test_a_networks_loss_has_no_gradient_in_its_partner():
    (a, b), labels = two_outputs()
    losses_of, _ = hcs([a, b], labels, threshold=0.5)
    losses_of[0].backward()
    assert b.grad is None or not b.grad.any()
    assert a.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "off", [{"threshold": 1.0}, {"weight": 0.0}, {"progress": 0.05, "warm_up": 0.1}]
)
def test_without_threshold_weight_or_after_warm_up_only_the_labels_count(off):
    outputs, labels = two_outputs()
    found, _ = hcs(outputs, labels, **off)
    expected = [F.cross_entropy(own[:8], labels).item() for own in outputs]
    assert found.tolist() == pytest.approx(expected)
    found.sum().backward()
    assert not any(own.grad[8:].any() for own in outputs)


def test_swapped_networks_have_swapped_losses():
    outputs, labels = two_outputs()
    found, pseudo = hcs(outputs, labels, threshold=0.6)
    swapped, swapped_pseudo = hcs(outputs[::-1], labels, threshold=0.6)
    assert torch.equal(found.flip(0), swapped) and torch.equal(pseudo.flip(0), swapped_pseudo)


def test_a_supervised_objective_ignores_the_unlabelled():
    outputs, labels = two_outputs()
    objective = losses.Supervised(losses.generalised_cross_entropy)
    found, pseudo = objective(outputs, labels, torch.arange(8), 0.0)
    expected = [losses.generalised_cross_entropy(own[:8], labels) for own in outputs]
    assert found.tolist() == torch.stack(expected).tolist()
    assert pseudo.tolist() == [[NONE] * 12] * 2


@each_size
@pytest.mark.parametrize("progress", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("forget_rate", [0.0, 0.3, 0.99])
def test_co_teaching_is_the_equation(batch, n_classes, seed, progress, forget_rate):
    both = [random_logits(batch, n_classes, seed + k) for k in (0, 1)]
    labels = random_labels(batch, n_classes, seed)
    found, _ = losses.CoTeaching(forget_rate)(both, labels, torch.arange(batch), progress)
    expected = references.co_teaching(
        *(own.tolist() for own in both), labels.tolist(), forget_rate, progress, 0.05
    )
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_co_teaching_learns_what_the_partner_finds_easy():
    a = torch.tensor([[5.0, 0.0], [0.0, 5.0]], requires_grad=True)  # the first label is easy for A
    b = torch.tensor([[0.0, 5.0], [5.0, 0.0]], requires_grad=True)  # the second for B
    loss, _ = losses.CoTeaching(0.5)([a, b], torch.tensor([0, 0]), torch.arange(2), 1.0)
    loss.sum().backward()
    assert a.grad.abs().sum(1).nonzero().tolist() == [[1]]
    assert b.grad.abs().sum(1).nonzero().tolist() == [[0]]


def test_co_teaching_without_a_forget_rate_is_plain_training():
    outputs, labels = two_outputs()
    found, _ = losses.CoTeaching(0.0)(outputs, labels, torch.arange(8), 1.0)
    plain, _ = losses.Supervised()(outputs, labels, torch.arange(8), 1.0)
    assert found.tolist() == pytest.approx(plain.tolist())
