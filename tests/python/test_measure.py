"""What is measured on sampled rows, against the whole attention matrix."""

import math

import pytest
import torch
from attune import measure
from attune.values import METRICS, PROFILE_BINS

ENTROPY, LOGIT, TOP, FIRST, NORM, IMPORTANCE, REDUNDANCY = range(7)


def whole(query, key, scaling, mask, causal):
    """The attention matrix in 64 bits, and which keys every row sees."""
    logits = query.double() @ key.double().transpose(-2, -1) * scaling
    visible = torch.ones(logits.shape, dtype=torch.bool)
    if causal:
        visible = visible.tril()
    if mask is not None:
        visible = visible & mask
    p = torch.softmax(logits.masked_fill(~visible, -math.inf), -1)
    return logits, p, visible


def numbers(query, key, output, rows, sequences, scaling, mask=None, causal=False, softcap=0.0):
    shape = (query.shape[0], query.shape[2], key.shape[2])
    view = measure.look(rows, sequences, *shape, mask, causal, softcap)
    return measure.numbers([measure.sample(query, key, output, view, scaling)])[0]


def inputs(batch=2, heads=3, length=20, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, batch, heads, length, width, generator=generator) * 2


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_sampled_rows_have_the_numbers_of_the_exact_attention_on_these_rows(causal, masked):
    query, key, output = inputs()
    rows, sequences = torch.tensor([3, 9, 19]), torch.tensor([0, 1])
    mask = None
    if masked:
        mask = torch.ones(2, 1, 20, 20, dtype=torch.bool)
        mask[1, ..., 15:] = False
    found = numbers(query, key, output, rows, sequences, 0.3, mask, causal)

    logits, p, visible = whole(query, key, 0.3, mask, causal)
    logits, p, visible = (x[:, :, rows] for x in (logits, p, visible))
    n = visible.sum(-1)
    entropy = -(p * p.clamp_min(1e-300).log()).sum(-1)
    torch.testing.assert_close(
        found[:, ENTROPY].double(), (entropy / n.log()).mean((0, 2)), atol=1e-5, rtol=0
    )
    largest = logits.masked_fill(~visible, -math.inf).amax((0, 2, 3))
    torch.testing.assert_close(found[:, LOGIT].double(), largest, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found[:, TOP].double(), p.amax(-1).mean((0, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, FIRST].double(), p[..., 0].mean((0, 2)), atol=1e-5, rtol=0)
    norms = output[:, :, rows].norm(dim=-1).mean((0, 2))
    torch.testing.assert_close(found[:, NORM], norms / norms.mean())
    units = p / p.norm(dim=-1, keepdim=True)
    cosines = torch.einsum("sark,sbrk->srab", units, units).mean((0, 1)) - 2 * torch.eye(3)
    torch.testing.assert_close(found[:, REDUNDANCY].double(), cosines.amax(-1), atol=1e-5, rtol=0)
    profile = torch.zeros(3, PROFILE_BINS, dtype=torch.float64)
    for s, h, r in ((s, h, r) for s in range(2) for h in range(3) for r in range(3)):
        seen = visible[s, h, r].nonzero().flatten().tolist()
        for rank, at in enumerate(seen):
            profile[h, 16 * (len(seen) - 1 - rank) // len(seen)] += p[s, h, r, at] / 6
    torch.testing.assert_close(found[:, len(METRICS) : -1].double(), profile, atol=1e-5, rtol=0)
    assert found[:, -1].tolist() == [6.0] * 3


def test_capped_logits_are_measured_as_the_kernel_caps_them():
    query, key, output = inputs()
    found = numbers(
        query * 9, key, output, torch.arange(20), torch.arange(2), 0.3, causal=True, softcap=5.0
    )
    logits = 5 * torch.tanh((query * 9).double() @ key.double().transpose(-2, -1) * 0.3 / 5)
    p = torch.softmax(logits.masked_fill(torch.ones(20, 20).triu(1).bool(), -math.inf), -1)
    assert found[:, LOGIT].max() <= 5
    top = p[:, :, 1:].amax(-1).mean((0, 2))
    torch.testing.assert_close(found[:, TOP].double(), top, atol=1e-5, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_sites_worked_out_together_have_the_numbers_that_each_has_alone(masked):
    mask = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(1)) > 0.4
    rows, sequences = torch.tensor([3, 9, 19]), torch.tensor([0, 1])
    view = measure.look(rows, sequences, 2, 20, 20, mask if masked else None, True)
    samples = [measure.sample(*inputs(seed=site), view, 0.3) for site in range(4)]
    together = measure.numbers(samples)
    for sample, found in zip(samples, together, strict=True):
        torch.testing.assert_close(found, measure.numbers([sample])[0])
    assert not torch.equal(together[0], together[1])


def test_uniform_attention_has_entropy_1_a_flat_profile_and_redundancy_1():
    zeros = torch.zeros(1, 2, 32, 4)
    ones = torch.ones(1, 2, 32, 4)
    found = numbers(zeros, ones, ones, torch.tensor([4]), torch.tensor([0]), 1.0)
    torch.testing.assert_close(found[:, ENTROPY], torch.ones(2))
    torch.testing.assert_close(found[:, REDUNDANCY], torch.ones(2))
    torch.testing.assert_close(found[:, 7:-1], torch.full((2, 16), 1 / 16))


def test_rows_that_see_less_than_two_keys_do_not_count():
    query, key, output = inputs()
    found = numbers(query, key, output, torch.tensor([0]), torch.tensor([0]), 1.0, None, True)
    assert found[:, -1].tolist() == [0.0] * 3
    assert found.isfinite().logical_or(found.isinf()).all()


def test_where_no_row_sees_two_keys_all_is_0():
    query, key, output = inputs()
    mask = torch.zeros(20, dtype=torch.bool)
    mask[0] = True
    found = numbers(query, key, output, torch.tensor([3]), torch.tensor([0]), 0.3, mask)
    found[:, NORM] = 0  # of the output alone
    assert not found.any()


def test_the_first_token_is_the_first_that_a_mask_shows():
    query, key, output = inputs()
    rows, sequences = torch.tensor([5, 12]), torch.tensor([0, 1])
    padded = torch.arange(20) >= 6
    found = numbers(query, key, output, rows, sequences, 0.3, padded)
    cut = numbers(query, key[:, :, 6:], output, rows, sequences, 0.3)
    assert found[:, FIRST].min() > 0
    torch.testing.assert_close(found, cut)


def test_a_mask_that_is_added_counts_as_the_boolean_one_that_hides_the_same_keys():
    query, key, output = inputs()
    visible = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(1)) > 0.4
    rows, sequences = torch.tensor([5, 12]), torch.tensor([1])
    hidden = torch.zeros(2, 1, 20, 20).masked_fill(~visible, torch.finfo(torch.float32).min)
    by_flag, by_sum = (
        numbers(query, key, output, rows, sequences, 1.0, mask) for mask in (visible, hidden)
    )
    torch.testing.assert_close(by_flag, by_sum)


@pytest.mark.parametrize(("first", "end"), [(0, 100), (15, 32), (15, 31), (1, 5), (0, 1)])
def test_one_row_is_drawn_from_each_equal_stretch(first, end):
    draws = torch.tensor([0.0, 0.999999] * 8)
    rows = measure.stratified(draws, first, end).tolist()
    assert rows == sorted(set(rows))
    assert first <= rows[0]
    assert rows[-1] < end
    assert len(rows) == min(16, end - first)


def test_measuring_in_half_precision_gives_the_numbers_of_the_rounded_inputs():
    query, key, output = inputs().half()
    rows, sequences = torch.tensor([3, 9]), torch.tensor([0])
    half = numbers(query, key, output, rows, sequences, 0.3)
    full = numbers(query.float(), key.float(), output.float(), rows, sequences, 0.3)
    torch.testing.assert_close(half, full)
