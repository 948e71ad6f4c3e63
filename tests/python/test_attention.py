"""Tuned attention: what it computes, skips, measures, keeps and gives back."""

import copy
from dataclasses import replace

import attune
import pytest
import torch
import torch.utils.checkpoint
from attune import attention, measure
from attune.adapters import NotReadyError
from attune.adapters.own import OwnAttention
from attune.attention import Shared, Tuning, take_numbers
from attune.tuned import device_of
from attune.values import METRICS, floats
from models import OwnModel, apply, attached, encoder, train, varied
from torch import nn

IMPORTANCE = METRICS.index("importance")
NORM = METRICS.index("output_norm")


def batch(length=20, width=32, seed=0):
    return torch.randn(3, length, width, generator=torch.Generator().manual_seed(seed))


def gradients(model, x):
    model.zero_grad()
    model(x).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def models():
    torch.manual_seed(0)
    return [
        pytest.param(OwnModel(), id="own"),
        pytest.param(OwnModel(key_heads=2), id="own-grouped"),
        pytest.param(encoder(), id="encoder"),
        pytest.param(encoder(batch_first=False), id="encoder-length-first"),
        pytest.param(encoder(norm_first=True, activation="gelu"), id="encoder-norm-first"),
    ]


@pytest.mark.parametrize("model", models())
def test_neutral_attention_equals_the_untouched_model_bit_for_bit(model):
    model = copy.deepcopy(model).train()
    x = batch()
    before, slopes = model(x), gradients(model, x)
    attached(model)
    assert torch.equal(model(x), before)
    assert all(map(torch.equal, gradients(model, x), slopes))


@pytest.mark.parametrize("model", models())
def test_a_measured_step_computes_what_an_unmeasured_one_does(model):
    model = copy.deepcopy(model).train()
    x = batch()
    before = model(x)
    handle = attached(model)
    for place in handle._tuned.places:
        place.tuning.measure_next(torch.full((18,), 0.5))
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("training", [True, False])
def test_a_baked_model_gives_the_tuned_outputs_and_knows_nothing_of_attune(model, training):
    model = copy.deepcopy(model).train(training)
    x = batch()
    untuned = model(x)
    handle = attached(model)
    apply(handle, varied(handle.sites))
    tuned = model(x)
    assert (tuned - untuned).abs().max() > 1e-3
    plain = handle.bake()
    torch.testing.assert_close(plain(x), tuned, atol=1e-5, rtol=1e-5)
    assert not any("attune" in name for name in plain.state_dict())
    assert torch.equal(model(x), tuned)


@pytest.mark.parametrize("model", models())
def test_a_model_baked_in_place_gives_the_tuned_outputs_and_knows_nothing_of_attune(model):
    model = copy.deepcopy(model).eval()
    x = batch()
    names = list(model.state_dict())
    handle = attached(model)
    apply(handle, varied(handle.sites))
    with torch.no_grad():
        tuned = model(x)
        handle.bake_in_place()
        torch.testing.assert_close(model(x), tuned, atol=1e-5, rtol=1e-5)
        assert list(model.state_dict()) == names
        handle.bake_in_place()  # nothing is folded twice
        torch.testing.assert_close(model(x), tuned, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(handle.bake()(x), tuned, atol=1e-5, rtol=1e-5)
    assert handle.setting == attune.Setting.neutral(len(handle.setting.active))
    attached(model).remove()  # it is free for another job


@pytest.mark.parametrize("model", models())
def test_a_measured_step_of_frozen_attention_leaves_nothing_to_differentiate(model):
    model = copy.deepcopy(model).train().requires_grad_(False)
    x = batch().detach()
    handle = attached(model)
    for place in handle._tuned.places:
        place.tuning.measure_next(torch.full((18,), 0.5))
    assert not model(x).requires_grad
    numbers = handle._tuned.take_numbers(1.0)
    assert torch.equal(numbers[:, IMPORTANCE], torch.zeros(len(numbers)))
    assert (numbers[:, NORM] > 0).all()


@pytest.fixture
def default_dtype():
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_settings_and_measurements_have_single_precision_whatever_the_default(dtype, default_dtype):
    default_dtype(dtype)
    model = OwnModel().train()
    handle = attached(model)
    apply(handle, replace(varied(handle.sites), scale=floats([1.15] * 4)))
    assert handle._tuned.read().scale == floats([1.15] * 4)
    (place,) = handle._tuned.places
    place.tuning.measure_next(torch.full((18,), 0.5, dtype=torch.float32))
    model(torch.randn(2, 16, 32)).sum().backward()
    numbers = handle._tuned.take_numbers(1.0)
    assert place.tuning.fault is None
    assert (numbers[[0, 1, 3], NORM] > 0).all()


def test_a_mask_that_is_written_to_between_two_passes_of_a_step_is_looked_at_anew():
    mask = torch.ones(4, 4, dtype=torch.bool)
    before = attention._identity(mask)
    mask[0, 3] = False
    assert attention._identity(mask) != before


def test_a_module_that_runs_untuned_is_baked_as_it_runs():
    model = OwnModel().eval()
    model.attention.heads = 3  # it runs with 4
    handle = attached(model)
    apply(handle, varied(handle.sites))
    x = batch()
    said = model(x)
    torch.testing.assert_close(handle.bake()(x), said)
    model.attention.attune.fits(3, 3)  # and it would be baked where it ran as it had said
    assert not model.attention.attune.untuned


def test_weights_that_are_computed_take_up_no_gains():
    module = nn.MultiheadAttention(32, 4, batch_first=True)
    nn.utils.parametrizations.orthogonal(module.out_proj)
    handle = attached(module)
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match="no plain parameter"):
        handle.bake()


@pytest.mark.parametrize("model", models())
def test_remove_restores_the_model_exactly(model):
    model = copy.deepcopy(model).eval()
    x = batch()
    with torch.no_grad():
        before = model(x)
    names = list(model.state_dict())
    classes = [type(module) for module in model.modules()]
    attributes = [sorted(module.__dict__) for module in model.modules()]
    handle = attached(model)
    apply(handle, varied(handle.sites))
    handle.remove()
    with torch.no_grad():
        assert torch.equal(model(x), before)
    assert list(model.state_dict()) == names
    assert [type(module) for module in model.modules()] == classes
    assert [sorted(module.__dict__) for module in model.modules()] == attributes


def test_the_fast_path_of_an_encoder_does_not_pass_the_tuning_by():
    model = encoder().eval()
    x = batch()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    padding = torch.zeros(3, 20, dtype=torch.bool)
    padding[1, 15:] = True
    with_gradients = model(x, src_key_padding_mask=padding)
    with torch.no_grad():
        without = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(without[~padding], with_gradients[~padding])


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"kdim": 16, "vdim": 12}, {"bias": False}]
)
def test_multihead_attention_takes_all_its_arguments_bit_for_bit(options, need_weights):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 4, **options)
    query = torch.randn(7, 2, 32)
    key = torch.randn(5, 2, options.get("kdim", 32))
    value = torch.randn(5, 2, options["vdim"]) if "vdim" in options else key
    if options.get("batch_first"):
        query, key = query.transpose(0, 1), key.transpose(0, 1)
        value = key
    masks = {
        "attn_mask": torch.randn(7, 5),
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
    }
    before = [
        module(query, key, value, need_weights=need_weights, **chosen)
        for chosen in ({}, {"attn_mask": masks["attn_mask"]}, masks if not need_weights else {})
    ]
    attached(module)
    after = [
        module(query, key, value, need_weights=need_weights, **chosen)
        for chosen in ({}, {"attn_mask": masks["attn_mask"]}, masks if not need_weights else {})
    ]
    for (output, weights), (expected, expected_weights) in zip(after, before):
        assert torch.equal(output, expected)
        assert weights is None or torch.equal(weights, expected_weights)


LATER = torch.triu(torch.ones(20, 20, dtype=torch.bool), 1)
NO_PADDING = torch.zeros(3, 20, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"is_causal": True}, RuntimeError, "Need attn_mask if specifying the is_causal hint"),
        ({"attn_mask": LATER.int()}, AssertionError, "types .*attn_mask"),
        ({"attn_mask": LATER[:1]}, RuntimeError, r"attn_mask is torch.Size\(\[1, 20\]\)"),
        ({"attn_mask": LATER[0]}, AssertionError, "expected `attn_mask` to be"),
        ({"attn_mask": LATER.expand(2, -1, -1)}, RuntimeError, "attn_mask is torch.Size"),
        ({"key_padding_mask": NO_PADDING.int()}, AssertionError, "types of key_padding_mask"),
        ({"key_padding_mask": NO_PADDING.T}, (AssertionError, RuntimeError), "key_pad.*_mask"),
    ],
    ids=["hint", "integers", "one-row", "one-axis", "two-heads", "integer-padding", "turned"],
)
@pytest.mark.parametrize("tuned", [False, True])
def test_multihead_attention_refuses_what_pytorch_refuses(arguments, error, words, tuned):
    if "is_causal" in arguments and not tuned and not hasattr(torch, "func"):
        pytest.skip("PyTorch from before 2.0 knows no hint")
    module = nn.MultiheadAttention(32, 4, batch_first=True)
    if tuned:
        attached(module)
    x = batch()
    with pytest.raises(error, match=words):
        module(x, x, x, **arguments)


@pytest.mark.skipif(not hasattr(torch, "func"), reason="PyTorch from before 2.0 knows no hint")
def test_a_hint_is_measured_as_the_mask_that_it_stands_for():
    numbers = []
    for hint in (False, True):
        torch.manual_seed(0)
        module = nn.MultiheadAttention(32, 4, batch_first=True)
        handle = attached(module)
        (place,) = handle._tuned.places
        place.tuning.measure_next(torch.full((18,), 0.5))
        x = batch()
        options = {"attn_mask": LATER, "is_causal": hint, "need_weights": False}
        module(x, x, x, **options)[0].square().mean().backward()
        numbers.append(handle._tuned.take_numbers(1.0))
    assert (numbers[0] != 0).any()
    torch.testing.assert_close(*numbers)


def test_masks_of_each_head_go_with_their_heads():
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 4, batch_first=True)
    x = batch(6)
    mask = torch.randn(3 * 4, 6, 6)
    handle = attached(module)
    apply(handle, varied(handle.sites))
    tuned, weights = module(x, x, x, attn_mask=mask, average_attn_weights=False)
    plain, _ = handle.bake()(x, x, x, attn_mask=mask)
    torch.testing.assert_close(plain, tuned, atol=1e-5, rtol=1e-5)
    assert weights.shape == (3, 4, 6, 6)
    assert not weights[:, 2].any()


def test_a_mask_without_a_batch_goes_with_its_heads_too():
    heads = [torch.randn(2, 4, 20, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    mask = torch.randn(4, 20, 20)
    attention = attune.Attention(4, 8, context=64).train()
    bare = attention(*heads, mask)
    handle = attached(attention)
    tuning = handle._tuned.places[0].tuning
    tuning.measure_next(torch.full((18,), 0.5))
    torch.testing.assert_close(attention(*heads, mask), bare)
    assert (take_numbers([tuning])[:, -1] > 0).all()
    keep_two = replace(attune.Setting.neutral(4), active=b"\x01\x00\x00\x01")
    apply(handle, keep_two)
    torch.testing.assert_close(attention(*heads, mask)[:, [0, 3]], bare[:, [0, 3]])


def test_heads_that_cannot_be_cut_out_are_measured_beside_the_active_ones():
    heads = torch.randn(3, 2, 4, 20, 8, generator=torch.Generator().manual_seed(0))
    attention = attune.Attention(4, 8, context=64).train()
    handle = attached(attention)
    tuning = handle._tuned.places[0].tuning
    tuning.uncut = True
    apply(handle, replace(attune.Setting.neutral(4), active=b"\x01\x00\x00\x01"))
    tuning.measure_next(torch.full((18,), 0.5))
    attention(*heads)
    numbers = take_numbers([tuning])
    assert numbers[[0, 3], NORM].mean() == pytest.approx(1)
    assert not numbers[[1, 2]].any()


def test_skipped_heads_are_not_computed_and_get_no_gradient():
    model = encoder(layers=1).train()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    widths = []
    original = torch.nn.functional.linear
    torch.nn.functional.linear = lambda x, w, b=None: (
        widths.append(tuple(w.shape)) or original(x, w, b)
    )
    try:
        model(batch()).sum().backward()
    finally:
        torch.nn.functional.linear = original
    assert (3 * 24, 32) in widths  # three of four heads, of 8 dimensions each
    assert (32, 24) in widths
    slope = model.layers[0].self_attn.in_proj_weight.grad.view(3, 4, 8, 32)
    assert not slope[:, 2].any()
    assert slope[:, 0].any()


def test_importance_is_the_sum_of_the_sizes_of_the_slopes_of_the_examples_along_the_gain():
    torch.manual_seed(0)
    model = OwnModel().double()
    x = batch().double()
    handle = attached(model)
    handle._tuned.places[0].tuning.measure_next(torch.full((18,), 0.5))
    target = torch.randn_like(x)

    def losses_of_examples():  # of the mean over the batch
        return (model(x) - target).square().flatten(1).mean(1) / len(x)

    losses_of_examples().sum().backward()
    found = take_numbers([handle._tuned.places[0].tuning])[:, IMPORTANCE]
    step = 2**-7
    cancelled = 0
    for head in range(4):
        losses = []
        for sign in (1, -1):
            setting = attune.Setting.neutral(4)
            setting.gain[head] = 1 + sign * step
            apply(handle, setting)
            losses.append(losses_of_examples().detach())
        slopes = (losses[0] - losses[1]) / (2 * step)
        cancelled += slopes.abs().sum() > 1.01 * slopes.sum().abs()
        assert found[head].item() == pytest.approx(slopes.abs().sum().item(), rel=1e-3)
    assert cancelled > 0


def test_importance_is_no_less_than_0_where_the_gradient_itself_is_learned_from():
    torch.manual_seed(0)
    output = torch.randn(2, 4, 5, 3, requires_grad=True)
    gain = torch.ones(4, 1, 1, requires_grad=True)
    loss = Tuning.weigh(output, gain).pow(3).sum()
    (slope,) = torch.autograd.grad(loss, output, create_graph=True)
    (-slope.sum()).backward()
    assert output.grad.any()
    assert (gain.grad >= 0).all()


@pytest.mark.skipif(not hasattr(torch, "func"), reason="PyTorch from before 2.0")
def test_outputs_are_weighed_under_transforms_of_functions_too():
    output = torch.randn(2, 4, 5, 3)
    gain = torch.full((4, 1, 1), 2.0, requires_grad=True)
    slope = torch.func.grad(lambda factor: Tuning.weigh(output * factor, gain).sum())(
        torch.tensor(1.0)
    )
    assert slope.item() == pytest.approx(2 * output.sum().item(), rel=1e-5)


@pytest.mark.parametrize("waiting", [0, 10_000, Shared.WAITING])
def test_sites_are_worked_out_together_as_far_as_what_waits_stays_small(waiting, monkeypatch):
    model, x = encoder(), batch()
    handle = attached(model)
    tunings = [place.tuning for place in handle._tuned.places]
    for tuning in tunings:
        tuning.measure_next(torch.full((18,), 0.5))
    gradients(model, x)
    alone = torch.cat([take_numbers([tuning]) for tuning in tunings])

    groups = []
    monkeypatch.setattr(Shared, "WAITING", waiting)
    numbers = measure.numbers
    monkeypatch.setattr(measure, "numbers", lambda some: groups.append(len(some)) or numbers(some))
    handle._tuned.measure_next(torch.full((18,), 0.5))
    gradients(model, x)
    together = handle._tuned.take_numbers(1.0)
    assert groups == ([1, 1] if waiting == 0 else [2])
    torch.testing.assert_close(together, alone)


def test_attention_without_weights_is_tuned_where_what_is_around_it_lies():
    model = nn.Sequential(nn.Linear(32, 32), OwnModel())
    assert device_of("1.attention", model) == torch.device("cpu")
    model[1].query.to("meta")
    assert device_of("1.attention", model) == torch.device("meta")
    assert device_of("1.output", model) == device_of("", model) == torch.device("cpu")
    with pytest.raises(NotImplementedError, match="meta"):
        attached(model)


@pytest.mark.parametrize("lengths", [(20, 12, 20), (20, 20, 12), (12, 12, 20)])
def test_of_several_passes_in_a_measured_step_the_last_counts(lengths):
    model = encoder()
    handle = attached(model)
    passes = [batch(length, seed=place) for place, length in enumerate(lengths)]

    def measured(some):
        handle._tuned.measure_next(torch.full((18,), 0.5))
        for x in some:
            model(x)
        return handle._tuned.take_numbers(1.0)

    assert torch.equal(measured(passes), measured(passes[-1:]))


def test_a_measurement_that_fails_leaves_its_sites_unmeasured_in_that_step(monkeypatch):
    def fail(_):
        raise RuntimeError("out of memory\nand much more")

    model, x = encoder(), batch()
    tuned = attached(model)._tuned
    with monkeypatch.context() as patch:
        patch.setattr(measure, "numbers", fail)
        tuned.measure_next(torch.full((18,), 0.5))
        gradients(model, x)
        assert not tuned.take_numbers(1.0).any()
    assert tuned.places[0].tuning.fault == "cannot be measured: out of memory"
    tuned.measure_next(torch.full((18,), 0.5))
    gradients(model, x)
    assert tuned.take_numbers(1.0)[:, -1].all()


def test_measuring_leaves_the_random_numbers_of_the_model_alone():
    model = encoder(dropout=0.5).train()
    x = batch()
    outputs = []
    for measured in (False, True):
        torch.manual_seed(1)
        handle = attached(model)
        if measured:
            for place in handle._tuned.places:
                place.tuning.measure_next(torch.full((18,), 0.5))
        outputs.append(model(x))
        outputs.append(torch.rand(1))
        handle.remove()
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])


def test_a_setting_travels_in_the_state_dict_and_is_in_force_where_it_is_loaded():
    torch.manual_seed(0)
    first, second = encoder(), encoder()
    one, other = attached(first), attached(second)
    apply(one, varied(one.sites))
    second.load_state_dict(first.state_dict())
    x = batch()
    assert torch.equal(first(x), second(x))
    train(second, other, x, 1)
    assert other.setting == one.setting


def test_a_checkpoint_of_before_attune_loads_as_neutral():
    checkpoint = encoder().state_dict()
    model = encoder()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    model.load_state_dict(checkpoint)
    train(model, handle, batch(), 1)
    assert handle.setting == attune.Setting.neutral(8)


def test_a_checkpoint_of_a_part_of_the_weights_leaves_the_tuning_as_it_is():
    model = encoder()
    handle = attached(model)
    setting = varied(handle.sites)
    apply(handle, setting)
    part = {"layers.0.self_attn.out_proj.bias": torch.zeros(32)}
    model.load_state_dict(part, strict=False)
    train(model, handle, batch(), 1)
    assert handle.setting == setting


@pytest.mark.parametrize(
    "part", [{}, {"block.query.bias": torch.zeros(32)}], ids=["nothing", "a-bias"]
)
def test_a_part_of_the_weights_leaves_attention_without_weights_as_it_is_tuned(part):
    model = nn.ModuleDict({"block": OwnModel()})
    handle = attached(model)
    setting = varied(handle.sites)
    apply(handle, setting)
    model.load_state_dict(part, strict=False)
    model.block.attention.load_state_dict({}, strict=False)
    train(model.block, handle, batch(), 1)
    assert handle.setting == setting


@pytest.mark.parametrize("instead", [nn.Identity(), None], ids=["another", "none"])
def test_weights_load_where_attention_was_taken_out_since(instead):
    model = OwnModel()
    attached(model)
    weights = OwnModel().state_dict()
    del model.attention
    if instead is not None:
        model.attention = instead
    model.load_state_dict(weights)
    assert torch.equal(model.query.weight, weights["query.weight"])


def test_all_weights_of_before_attune_load_as_neutral_into_attention_without_weights():
    checkpoint = OwnModel().state_dict()
    model = OwnModel()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    model.load_state_dict(checkpoint)
    train(model, handle, batch(), 1)
    assert handle.setting == attune.Setting.neutral(4)


@pytest.mark.parametrize("training", [True, False])
def test_tuned_attention_takes_an_empty_batch_as_the_untouched_one_does(training):
    model = encoder().train(training)
    handle = attached(model)
    apply(handle, varied(handle.sites))
    empty = batch()[:0]
    assert model(empty).shape == empty.shape
    attention = model.layers[0].self_attn
    for need_weights in (True, False):
        assert attention(empty, empty, empty, need_weights=need_weights)[0].shape == empty.shape


def test_a_changed_topology_on_resume_is_an_error_that_names_the_module():
    first, second = nn.MultiheadAttention(32, 4), nn.MultiheadAttention(32, 8)
    attached(first)
    attached(second)
    with pytest.raises(ValueError, match="4 heads at site 'attention' and the model 8"):
        second.load_state_dict(first.state_dict())


def test_a_copied_model_is_tuned_by_its_own_buffers():
    model = encoder()
    handle = attached(model)
    twin = copy.deepcopy(model)
    apply(handle, varied(handle.sites))
    x = batch()
    assert not torch.equal(model(x), twin(x))
    handle.remove()
    assert torch.equal(model(x), twin(x))


class Refusing(OwnAttention):
    def __init__(self, error):
        self._error = error
        self.without_data = []

    def bake(self, module, setting):
        self.without_data += [tensor.is_meta for tensor in module.projections[0].parameters()]
        if any(scale != 1 for scale in setting.scale):
            raise self._error


@pytest.mark.parametrize(
    ("error", "fixed"),
    [
        (ValueError("its queries are normalised"), b"\1" * 4),
        (NotReadyError("merge its adapters first"), b""),
        (RuntimeError("it has no meta tensors"), b""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_scales_are_fixed_where_the_architecture_could_not_take_them_up(error, fixed):
    adapter = Refusing(error)
    handle = attached(OwnModel(), adapters=[adapter])
    assert handle.job.scale_fixed == fixed
    assert adapter.without_data
    assert all(adapter.without_data)


def test_a_model_with_a_layer_that_has_no_weights_yet_is_attached():
    model = nn.Sequential(OwnModel(), nn.LazyLinear(4))
    assert attached(model).job.scale_fixed == b""


def test_a_model_that_could_not_be_baked_at_all_is_told_at_once():
    class Closed(OwnAttention):
        def bake(self, module, setting):
            raise ValueError("it normalises what its heads give")

    with pytest.warns(UserWarning, match="'attention' is tuned and cannot be baked: .* normalises"):
        attached(OwnModel(), adapters=[Closed()])


def test_a_copy_of_a_tuned_model_is_nobodys_and_is_not_tuned_anew():
    model = encoder()
    handle = attached(model)
    twin = copy.deepcopy(model)
    assert attune.Handle.of(model) is handle
    assert attune.Handle.of(twin) is None
    with pytest.raises(ValueError, match=r"a copy of a tuned module: copy what .* bake\(\)"):
        attached(twin)
    handle.remove()
    assert attune.Handle.of(model) is None


def test_a_model_whose_handle_was_dropped_says_so():
    model = encoder()
    attached(model)
    assert attune.Handle.of(model) is None
    with pytest.raises(ValueError, match="tuned by a handle that is gone"):
        attached(model)


def test_a_model_keeps_its_handle_where_that_is_to_stay():
    model = encoder()
    attached(model).stay()
    attune.Handle.of(model).remove()
    attached(model).remove()


def test_a_model_keeps_its_setting_in_another_precision():
    model = OwnModel()
    handle = attached(model)
    setting = attune.Setting.neutral(4)
    setting.scale[0] = 1.15
    apply(handle, setting)
    model.to(torch.bfloat16)
    assert model(batch().to(torch.bfloat16)).dtype == torch.bfloat16
    train(model.float(), handle, batch(), 1)
    assert handle.setting == setting


def test_a_first_pass_in_inference_mode_does_not_spoil_training():
    model = OwnModel()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    with torch.inference_mode():
        model(batch())
    model(batch()).sum().backward()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.scale.__setitem__(1, 17.0), "scale: head 1"),
        (lambda s: s.gain.__setitem__(1, float("nan")), "gain: head 1"),
        (lambda s: s.scale.append(1.0), "there are 5 entries"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_whole(change, words):
    model = OwnModel()
    handle = attached(model)
    setting = attune.Setting.neutral(4)
    change(setting)
    assert words in handle.apply(setting)
    assert handle.setting == attune.Setting.neutral(4)


def test_no_site_is_left_without_an_active_head():
    handle = attached(OwnModel())
    neutral = attune.Setting.neutral(4)
    fault = handle.apply(attune.Setting(neutral.scale, neutral.gain, bytes(4)))
    assert "no active head" in fault


def test_own_attention_without_projections_cannot_be_baked_and_says_which():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = attune.Attention(4, 8)

    model = Model()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match=r"site 'inner' cannot be baked.*query="):
        handle.bake()


@pytest.mark.skipif(
    not hasattr(torch._C, "_current_graph_task_id"), reason="PyTorch 1.13 does not say"
)
def test_a_pass_that_the_backward_pass_computes_again_counts_once(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr("attune.attention.time.process_time", lambda: float(next(ticks)))
    model = OwnModel().train()
    handle = attached(model)
    tuning = handle._tuned.places[0].tuning
    tuning.measure_next(torch.full((18,), 0.5))
    x = batch().requires_grad_()
    again = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    assert tuning.seconds == 1
    again.sum().backward()
    assert tuning.seconds == pytest.approx(1 + 1 / 3)


def test_autocast_and_gradient_accumulation_measure_as_ever():
    model = OwnModel()
    handle = attached(model, endpoint="ipc:///nobody/there")
    for _ in range(8):
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(batch()).float().square().mean() / 2
            loss.backward()
        handle.step(loss)
    assert handle.last_observation.step == 8
    assert all(value > 0 for value in handle.last_observation.metrics[IMPORTANCE :: len(METRICS)])
    handle.remove()


def test_checkpointed_layers_measure_importance_too():
    from torch.utils.checkpoint import checkpoint

    model = OwnModel()
    handle = attached(model, endpoint="ipc:///nobody/there")
    for _ in range(8):
        x = batch().requires_grad_()
        loss = checkpoint(model, x, use_reentrant=False).square().mean()
        loss.backward()
        handle.step(loss)
    assert all(value > 0 for value in handle.last_observation.metrics[IMPORTANCE :: len(METRICS)])
    handle.remove()
