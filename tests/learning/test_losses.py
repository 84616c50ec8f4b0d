"""Losses equal slow loops in float64; gradients go where they should and nowhere else."""

from itertools import product

import numpy as np
import pytest
import references
import torch
from torch.nn import functional as F

from lib.labels import UNLABELLED
from lib.learning import losses
from lib.learning.batches import TrainingTiles

SIZES = [(1, 2, 0), (7, 2, 1), (16, 5, 2), (33, 9, 3)]


def random_logits(batch, n_classes, seed, scale=3.0):
    chance = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, n_classes, generator=chance, dtype=torch.float64)


def random_labels(batch, n_classes, seed):
    return torch.randint(n_classes, (batch,), generator=torch.Generator().manual_seed(seed + 50))


def test_cross_supervision_is_the_equation():
    for size, threshold in product(SIZES, [0.0, 0.5, 0.8, 0.95, 1.0]):
        batch, n_classes, seed = size
        own = random_logits(batch, n_classes, seed)
        partner = random_logits(batch, n_classes, seed + 9)
        found = losses.cross_supervision(own, partner, threshold)
        expected = references.cross_supervision(own.tolist(), partner.tolist(), threshold)
        assert found.item() == pytest.approx(expected, abs=1e-6), (size, threshold)


def test_a_probability_at_the_threshold_is_not_above_it():
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    assert losses.confident_labels(logits, 0.5).tolist() == [UNLABELLED, 0]
    certain = torch.tensor([[1e9, 0.0]])
    assert losses.confident_labels(certain, 1.0).tolist() == [UNLABELLED]


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


def test_generalised_cross_entropy_is_the_equation():
    for size, q in product(SIZES, [0.1, 0.7, 1.0]):
        logits, labels = random_logits(*size), random_labels(*size)
        found = losses.generalised_cross_entropy(logits, labels, q)
        expected = references.generalised_cross_entropy(logits.tolist(), labels.tolist(), q)
        assert found.item() == pytest.approx(expected, abs=1e-6), (size, q)


def test_generalised_cross_entropy_nears_cross_entropy_and_survives_a_probability_of_zero():
    logits, labels = random_logits(16, 4, 0), random_labels(16, 4, 0)
    near = losses.generalised_cross_entropy(logits, labels, 1e-6)
    assert near.item() == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-4)
    hopeless = torch.tensor([[1e4, 0.0]], requires_grad=True)
    losses.generalised_cross_entropy(hopeless, torch.tensor([1])).backward()
    assert torch.isfinite(hopeless.grad).all()


@pytest.mark.parametrize(("batch", "n_classes", "seed"), SIZES)
def test_early_learning_regularisation_is_the_equation_over_several_steps(batch, n_classes, seed):
    objective = losses.EarlyLearningRegularisation()
    state = {"targets": torch.zeros(1, 2, 50, n_classes, dtype=torch.float64)}
    targets = np.zeros((2, 50, n_classes)).tolist()
    for step in range(4):
        both = [random_logits(batch, n_classes, seed + 10 * step + k, scale=1) for k in (0, 1)]
        labels = random_labels(batch, n_classes, seed)
        rows = torch.randperm(50, generator=torch.Generator().manual_seed(step))[:batch]
        outputs = torch.stack(both)[None], None
        (found,), _ = objective(outputs, labels[None], 0.0, rows=rows[None], state=state)
        expected = [
            references.early_learning_regularisation(
                own.tolist(), labels.tolist(), kept, rows.tolist(), 3.0, 0.7
            )
            for own, kept in zip(both, targets, strict=True)
        ]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(state["targets"][0], targets, atol=1e-12)


def test_early_learning_regularisation_stays_finite_for_a_certain_network():
    objective = losses.EarlyLearningRegularisation()
    data = TrainingTiles(np.arange(1), np.zeros(1, int), ["one"])
    state = {name: own.expand(1, 2, 1, 2).clone() for name, own in objective.state([data]).items()}
    logits = torch.tensor([[50.0, -50.0]], requires_grad=True)
    for _ in range(60):
        outputs, zero = (torch.stack([logits, logits])[None], None), torch.zeros(1, 1).long()
        loss, _ = objective(outputs, zero, 0.0, rows=zero, state=state)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def hcs(outputs, labels, progress=1.0, **settings):
    objective = losses.HighConfidenceCrossSupervision(**settings)
    return objective((torch.stack(outputs), None), labels, progress)


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
    torch.testing.assert_close(found.flip(0), swapped)
    assert torch.equal(pseudo.flip(0), swapped_pseudo)


def test_a_supervised_objective_ignores_the_unlabelled():
    outputs, labels = two_outputs()
    found, pseudo = losses.Supervised(q=0.7)((torch.stack(outputs), None), labels, 0.0)
    expected = [losses.generalised_cross_entropy(own[:8], labels) for own in outputs]
    torch.testing.assert_close(found, torch.stack(expected))
    assert pseudo.shape == (2, 0)


def test_co_teaching_is_the_equation():
    for size, progress, rate in product(SIZES, [0.0, 0.02, 0.5], [0.0, 0.3, 0.99]):
        batch, n_classes, seed = size
        both = [random_logits(batch, n_classes, seed + k) for k in (0, 1)]
        labels = random_labels(*size)
        found, _ = losses.CoTeaching(rate)((torch.stack(both), None), labels, progress)
        expected = references.co_teaching(
            *(own.tolist() for own in both), labels.tolist(), rate, progress, 0.05
        )
        assert found.tolist() == pytest.approx(expected, abs=1e-6), (size, progress, rate)


def test_co_teaching_learns_what_the_partner_finds_easy():
    a = torch.tensor([[5.0, 0.0], [0.0, 5.0]], requires_grad=True)  # the first label is easy for A
    b = torch.tensor([[0.0, 5.0], [5.0, 0.0]], requires_grad=True)  # the second for B
    loss, _ = losses.CoTeaching(0.5)((torch.stack([a, b]), None), torch.tensor([0, 0]), 1.0)
    loss.sum().backward()
    assert a.grad.abs().sum(1).nonzero().tolist() == [[1]]
    assert b.grad.abs().sum(1).nonzero().tolist() == [[0]]


def test_co_teaching_without_a_forget_rate_is_plain_training():
    outputs, labels = two_outputs()
    both = torch.stack(outputs), None
    found, _ = losses.CoTeaching(0.0)(both, labels, 1.0)
    plain, _ = losses.Supervised()(both, labels, 1.0)
    assert found.tolist() == pytest.approx(plain.tolist())


# --- class-wise contrast ---------------------------------------------------------------------


def projections(batch, seed, size=4):
    """Of two networks, float64 and with gradients, and labels 0 … 2 or none."""
    a, b = (random_logits(batch, size, seed + k).requires_grad_() for k in (0, 1))
    labels = torch.randint(UNLABELLED, 3, (batch,), generator=torch.Generator().manual_seed(seed))
    return a, b, labels


def test_the_class_contrast_is_the_equation():
    for size, temperature in product([(2, 0), (7, 1), (16, 2), (33, 3)], [0.15, 1.0]):
        a, b, labels = projections(*size)
        found = losses.class_contrast(a, b, labels, temperature)
        expected = references.class_contrast(a.tolist(), b.tolist(), labels.tolist(), temperature)
        assert found.item() == pytest.approx(expected, abs=1e-10), (size, temperature)


def test_one_tile_of_each_class_by_hand():
    """Right angles everywhere: e^{1/T} for the same tile, two other tiles seen by two networks."""
    a = torch.eye(3, dtype=torch.float64)
    found = losses.class_contrast(a, 5 * a, torch.arange(3), temperature=0.5)
    assert found.item() == pytest.approx(np.log(1 + 4 * np.exp(-2)))


@pytest.mark.parametrize(
    "labels",
    [
        [1] * 6,
        [UNLABELLED] * 6,
        [UNLABELLED, 2, UNLABELLED, 2, UNLABELLED, UNLABELLED],
        [0] + [UNLABELLED] * 5,
        [],
    ],
)
def test_where_no_two_classes_meet_the_contrast_is_nothing(labels):
    a, b, _ = projections(len(labels), 0)
    loss = losses.class_contrast(a, b, torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert (a.grad == 0).all() and (b.grad == 0).all()


def test_the_gradient_of_the_contrast_is_that_of_finite_differences():
    a, b, labels = projections(9, 4)
    assert len(labels.unique()) == 4
    assert torch.autograd.gradcheck(lambda a, b: losses.class_contrast(a, b, labels), (a, b))


def test_tiles_without_a_label_take_no_part_in_the_contrast():
    a, b, labels = projections(16, 2)
    known = labels != UNLABELLED
    assert 2 < known.sum() < 16
    loss = losses.class_contrast(a, b, labels)
    loss.backward()
    for own in (a, b):
        assert torch.equal(own.grad.abs().sum(1) > 0, known)
    alone = losses.class_contrast(a[known], b[known], labels[known])
    assert alone.item() == pytest.approx(loss.item(), abs=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1.0, np.pi])
def test_tiles_of_one_class_do_not_push_each_other_apart(angle):
    """Two tiles at any angle, a third of another class upright on both: always the same value."""
    a = torch.tensor([[1, 0, 0], [np.cos(angle), np.sin(angle), 0], [0, 0, 1]])
    found = losses.class_contrast(a, a, torch.tensor([0, 0, 1]), temperature=1.0)
    expected = (2 * np.log(1 + 2 / np.e) + np.log(1 + 4 / np.e)) / 3
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_contrast_is_the_same_for_swapped_networks_and_for_any_order_and_length():
    a, b, labels = projections(16, 2)
    found = losses.class_contrast(a, b, labels).item()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    names = torch.tensor([2, 0, 1, UNLABELLED])[labels]  # UNLABELLED is the last entry
    for same in (
        losses.class_contrast(b, a, labels),
        losses.class_contrast(a[order], b[order], labels[order]),
        losses.class_contrast(3 * a, 0.1 * b, labels),
        losses.class_contrast(a, b, names),
    ):
        assert same.item() == pytest.approx(found, abs=1e-12)


def test_the_contrast_of_a_projection_that_is_zero_is_finite():
    a, b, labels = projections(9, 4)
    with torch.no_grad():
        a[0] = 0
    loss = losses.class_contrast(a, b, labels)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()


def test_the_authors_public_loop_is_another_loss():
    """Ours, and theirs: later tiles only, without the last of the batch, divided by one more."""
    a = torch.eye(4, dtype=torch.float64).tolist()
    labels = [0, 1, 0, 1]
    per_tile = np.log(1 + 4 / np.e)  # two networks see two tiles of the other class
    assert references.class_contrast(a, a, labels, 1.0) == pytest.approx(per_tile)
    # Theirs: tile 0 sees 1, tile 1 sees 2, tile 2 sees none; two terms, divided by three.
    public = 2 * np.log(1 + 2 / np.e) / 3
    assert references.class_contrast_public(a, a, labels, 1.0) == pytest.approx(public)
    assert references.class_contrast_public(a[:2], a[:2], [0, 1], 0.15) == 0, (
        "of two it learns none"
    )
    a, b, labels = projections(16, 2)
    orders = [torch.arange(16), torch.arange(16).flip(0)]
    ours = [losses.class_contrast(a[o], b[o], labels[o]).item() for o in orders]
    theirs = [
        references.class_contrast_public(a[o].tolist(), b[o].tolist(), labels[o].tolist(), 0.15)
        for o in orders
    ]
    assert ours[0] == pytest.approx(ours[1]) and abs(theirs[0] - theirs[1]) > 0.01
    assert 0.5 * ours[0] < theirs[0] < 0.9 * ours[0]


# --- dual-view training --------------------------------------------------------------------------


def dual_view(logits, projected, labels, progress=1.0, class_counts=None, **settings):
    objective = losses.DualViewTraining(**settings)
    names = "abc"[: len(logits[0][0])]
    tiles = np.arange(len(names))
    state = objective.state([TrainingTiles(tiles, tiles, names, class_counts=class_counts)])
    outputs = tuple(torch.stack([*each])[None] for each in (logits, projected))
    found, pseudo = objective(outputs, labels[None], progress, state=state)
    return found[0], pseudo[0]


def two_pairs():
    logits, labels = two_outputs()
    a, b, _ = projections(20, 7)
    return logits, [a, b], labels


@pytest.mark.parametrize("progress", [0.0, 0.07, 0.08, 1.0])
def test_dual_view_training_is_cross_supervision_plus_the_contrast(progress):
    logits, projected, labels = two_pairs()
    found, pseudo = dual_view(logits, projected, labels, progress, threshold=0.6)
    apart, expected_pseudo = hcs(logits, labels, progress, threshold=0.6)
    each = [losses.confident_labels(own[8:], 0.6).tolist() for own in logits]
    agreed = [one if one == other else UNLABELLED for one, other in zip(*each, strict=True)]
    assert 2 < sum(label != UNLABELLED for label in agreed) < 10
    contrast = references.class_contrast(
        *(own.tolist() for own in projected), labels.tolist() + agreed, 0.15
    )
    assert found.sum().item() == pytest.approx(apart.sum().item() + 0.1 * contrast, abs=1e-6)
    assert found.diff().item() == pytest.approx(apart.diff().item(), abs=1e-6)
    assert torch.equal(pseudo, expected_pseudo)


def test_before_the_warm_up_is_over_no_view_teaches_the_other():
    logits, projected, labels = two_pairs()
    early, _ = dual_view(logits, projected, labels, 0.07)
    without, _ = dual_view(logits, projected, labels, 1.0, weight=0.0)
    late, _ = dual_view(logits, projected, labels, 0.075)
    torch.testing.assert_close(early, without)
    assert (late > early + 1e-3).all()


def test_without_contrast_dual_view_training_is_cross_supervision():
    logits, projected, labels = two_pairs()
    found, _ = dual_view(logits, projected, labels, contrast=0.0)
    torch.testing.assert_close(found, hcs(logits, labels, threshold=0.7)[0])


def test_only_unlabelled_tiles_of_which_both_networks_are_sure_and_agree_are_contrasted():
    """A probability at the threshold is not sure."""
    sure, unsure = [4.0, 0.0], [0.2, 0.0]
    a = torch.tensor([[0.0, 0.0]] * 2 + [sure, sure, sure, unsure, unsure])
    b = torch.tensor([[0.0, 0.0]] * 2 + [sure, sure[::-1], unsure, sure, unsure])
    projected = projections(7, 0)[:2]
    losses_of, pseudo = dual_view([a, b], projected, torch.tensor([0, 1]), threshold=0.9)
    losses_of.sum().backward()
    assert pseudo.tolist() == [[0, 0, 0, UNLABELLED, UNLABELLED], [0, 1, UNLABELLED, 0, UNLABELLED]]
    for own in projected:
        assert (own.grad.abs().sum(1) > 0).tolist() == [True] * 3 + [False] * 4
    even, projected = torch.zeros(4, 2), projections(4, 0)[:2]
    losses_of, _ = dual_view([even, even], projected, torch.tensor([0, 1]), threshold=0.5)
    losses_of.sum().backward()
    for own in projected:
        assert (own.grad.abs().sum(1) > 0).tolist() == [True] * 2 + [False] * 2


def test_dual_view_training_needs_no_unlabelled_tiles():
    logits, projected, labels = two_pairs()
    cut = [[own[:8] for own in both] for both in (logits, projected)]
    found, pseudo = dual_view(*cut, labels)
    contrast = losses.class_contrast(*cut[1], labels)
    expected = [F.cross_entropy(own, labels) + 0.05 * contrast for own in cut[0]]
    assert found.tolist() == pytest.approx(torch.stack(expected).tolist())
    assert pseudo.shape == (2, 0) and torch.isfinite(found).all()


# --- pseudo labels that follow the labels --------------------------------------------------------


def test_aligned_probabilities_are_the_equation():
    for size, strength in product(SIZES, [0.0, 0.5, 1.0]):
        chance = np.random.default_rng(size[2])
        marginal, mean = (chance.dirichlet(np.ones(size[1])) for _ in "qp")
        logits = random_logits(*size)
        found = losses.aligned_logits(logits, *map(torch.tensor, (marginal, mean)), strength)
        for probs, own in zip(torch.softmax(found, 1).tolist(), logits.tolist(), strict=True):
            expected = references.aligned(references.softmax(own), marginal, mean, strength)
            assert probs == pytest.approx(expected, abs=1e-9), (size, strength)


def test_full_alignment_by_hand():
    """Half of the labels are of the class that gets a fifth of the predictions: 4 to 1, at odds."""
    logits = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64).log()
    found = losses.aligned_logits(logits, torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.8]), 1.0)
    np.testing.assert_allclose(torch.softmax(found, 1), [[0.5, 0.5], [0.8, 0.2]], atol=1e-6)


def test_the_marginal_is_shrunk_towards_the_predictions_the_more_the_fewer_the_labels():
    for seed in range(4):
        chance = np.random.default_rng(seed)
        mean, counts = chance.dirichlet(np.ones(5)), chance.integers(9, size=5)
        for kappa in (1.0, 10.0, 100.0):
            found = losses.shrunk_marginal(torch.tensor(counts), torch.tensor(mean), kappa)
            expected = references.shrunk_marginal(counts.tolist(), mean, kappa)
            assert found.tolist() == pytest.approx(expected), (seed, kappa)
    none = losses.shrunk_marginal(torch.zeros(2), torch.tensor([0.3, 0.7]), 10.0)
    assert none.tolist() == pytest.approx([0.3, 0.7])


def test_aligned_dual_view_training_is_the_equation_over_several_steps():
    counts, threshold, momentum, kappa = [6.0, 1.0, 3.0], 0.6, 0.9, 5.0
    objective = losses.DualViewTraining(
        threshold,
        contrast=0.0,
        alignment=0.5,
        pseudo_counts=kappa,
        momentum=momentum,
    )
    state = {"counts": torch.tensor([[counts]]), "predicted": torch.zeros(1, 2, 3)}
    sums, moved = np.zeros((2, 3)), 0
    for step in range(4):
        logits = [random_logits(20, 3, 10 * step + k).requires_grad_() for k in (0, 1)]
        labels = random_labels(8, 3, step)
        outputs = torch.stack(logits)[None], torch.stack(projections(20, step)[:2])[None]
        (found,), (pseudo,) = objective(outputs, labels[None], 1.0, state=state)
        taught = []
        for k, own in enumerate(logits):
            probs = [references.softmax(row) for row in own[8:].tolist()]
            sums[k] = momentum * sums[k] + (1 - momentum) * np.mean(probs, axis=0)
            mean = sums[k] / sums[k].sum()
            marginal = references.shrunk_marginal(counts, mean, kappa)
            probs = [references.aligned(row, marginal, mean, 0.5) for row in probs]
            taught.append([[np.log(p) for p in row] for row in probs])
            sure = [int(np.argmax(p)) if max(p) > threshold else UNLABELLED for p in probs]
            assert pseudo[k].tolist() == sure, step
            moved += sure != losses.confident_labels(own[8:], threshold).tolist()
        for loss, own, partner in zip(found, logits, taught[::-1], strict=True):
            known = references.cross_entropy(own[:8].tolist(), labels.tolist())
            rest = references.cross_supervision(own[8:].tolist(), partner, threshold)
            assert loss.item() == pytest.approx(known + 0.5 * rest, abs=1e-5), step
    assert moved > 3
    np.testing.assert_allclose(state["predicted"][0], sums, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"alignment": 0.0, "class_counts": (9, 1, 1)},
        {"alignment": 0.5},
        {"alignment": 0.5, "class_counts": (0, 0, 0)},
    ],
)
def test_without_alignment_or_labels_it_is_the_published_training(settings):
    """Written out with the losses alone, as it was before there was an alignment."""
    logits, projected, labels = two_pairs()
    found, pseudo = dual_view(logits, projected, labels, **settings)
    sure = [losses.confident_labels(own[8:], 0.7) for own in logits]
    agreed = sure[0].where(sure[0] == sure[1], UNLABELLED)
    contrast = losses.class_contrast(*projected, torch.cat([labels, agreed]), 0.15)
    expected = [
        F.cross_entropy(own[:8], labels) + 0.5 * losses.cross_supervision(own[8:], other[8:], 0.7)
        for own, other in (logits, logits[::-1])
    ]
    expected = torch.stack(expected) + 0.1 / 2 * contrast
    torch.testing.assert_close(found, expected)
    assert torch.equal(pseudo, torch.stack(sure))


def test_labels_that_show_what_is_predicted_move_nothing():
    logits, projected, labels = two_pairs()
    mean = torch.softmax(logits[0][8:].detach(), 1).mean(0)
    settings = {"alignment": 1.0, "class_counts": (1000 * mean).tolist()}
    _, pseudo = dual_view([logits[0]] * 2, projected, labels, **settings)
    assert torch.equal(pseudo[0], losses.confident_labels(logits[0][8:], 0.7))


def test_more_labels_of_a_class_never_take_pseudo_labels_from_it():
    logits, projected, labels = two_pairs()
    shares = []
    for n in (0, 2, 10, 50, 1000):
        settings = {"alignment": 0.5, "class_counts": (10, n, 10), "threshold": 0.0}
        _, pseudo = dual_view(logits, projected, labels, **settings)
        shares.append((pseudo == 1).float().mean().item())
    assert shares == sorted(shares) and shares[0] < shares[-1]


def test_alignment_passes_no_gradient_and_needs_no_unlabelled_tiles():
    logits, projected, labels = two_pairs()
    settings = {"alignment": 1.0, "class_counts": (1, 1, 9), "contrast": 0.0, "threshold": 0.5}
    found, _ = dual_view(logits, projected, labels, **settings)
    found[0].backward()
    assert logits[0].grad.abs().sum() > 0 and not logits[1].grad.any()
    cut = [[own[:8] for own in both] for both in (logits, projected)]
    found, pseudo = dual_view(*cut, labels, **settings)
    assert torch.isfinite(found).all() and pseudo.shape == (2, 0)


def test_objectives_of_equal_settings_are_equal_and_say_their_settings():
    """Equal ones are trained side by side; checkpoints and rounds go on if the text is the same."""
    other = {"threshold": 0.6, "weight": 0.4, "warm_up": 0.1, "contrast": 0.2, "temperature": 0.1}
    other |= {"alignment": 0.5, "pseudo_counts": 3.0, "momentum": 0.9}
    made = [losses.DualViewTraining(**{name: value}) for name, value in other.items()]
    made += [losses.DualViewTraining(), losses.HighConfidenceCrossSupervision()]
    made += [losses.Supervised(), losses.Supervised(q=0.7)]
    made += [losses.EarlyLearningRegularisation(), losses.CoTeaching(0.1), losses.CoTeaching(0.2)]
    assert len(set(made)) == len({repr(own) for own in made}) == len(made)
    assert losses.DualViewTraining() == losses.DualViewTraining(threshold=0.7)
