"""Models of Hugging Face transformers, randomly initialised, whichever version is installed.

Some call its attention interface and some, in 4.x, have attention classes of their own.
"""

import copy
import gc
import pickle
import warnings
from dataclasses import replace
from types import SimpleNamespace

import attune
import pytest
import torch
from attune import measure
from attune.adapters import patches
from attune.adapters.transformers_interface import _record, calls_interface
from attune.attention import take_numbers
from attune.values import METRICS, observation_fault
from models import apply, attached, varied
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    DecisionTransformerModel,
    Gemma2Config,
    Gemma2Model,
    GPT2Config,
    GPT2Model,
    GPTBigCodeConfig,
    GPTBigCodeModel,
    LlamaConfig,
    LlamaModel,
    OlmoConfig,
    OlmoModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    T5Model,
    ViTConfig,
    ViTModel,
    WhisperConfig,
    WhisperModel,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
IDS = torch.randint(0, 90, (2, 20), generator=torch.Generator().manual_seed(0))
PADDED = torch.tensor([[1] * 20, [1] * 15 + [0] * 5])


def bert(**options):
    config = BertConfig(vocab_size=99, intermediate_size=64, **SMALL)
    return BertModel._from_config(config, **options), {"input_ids": IDS, "attention_mask": PADDED}


def roberta_decoder(**options):
    config = RobertaConfig(
        vocab_size=99, intermediate_size=64, is_decoder=True, add_cross_attention=True, **SMALL
    )
    other = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
    padded = torch.tensor([[1] * 12, [1] * 8 + [0] * 4])
    inputs = {"encoder_hidden_states": other, "encoder_attention_mask": padded}
    inputs |= {"input_ids": IDS + 3, "attention_mask": PADDED, "use_cache": False}
    return RobertaModel._from_config(config, **options), inputs


def gpt2(**options):
    config = GPT2Config(
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2Model._from_config(config, **options), {"input_ids": IDS, "attention_mask": PADDED}


def llama(**options):
    config = LlamaConfig(
        vocab_size=99,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        **SMALL,
    )
    inputs = {"input_ids": IDS, "attention_mask": PADDED}
    return LlamaModel._from_config(config, **options), inputs


def gemma2(**options):
    config = Gemma2Config(
        vocab_size=99,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=64,
        attn_logit_softcapping=0.01,
        query_pre_attn_scalar=1,
        sliding_window=64,
        **SMALL,
    )
    inputs = {"input_ids": IDS, "attention_mask": PADDED, "use_cache": False}
    return Gemma2Model._from_config(config, **options), inputs


def vit(**options):
    config = ViTConfig(intermediate_size=64, image_size=16, patch_size=4, **SMALL)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return ViTModel._from_config(config, **options), {"pixel_values": pixels}


def whisper(**options):
    config = WhisperConfig(
        vocab_size=99, d_model=32, encoder_layers=2, decoder_layers=1, num_mel_bins=8,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, max_source_positions=20, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    sound = torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(0))
    return WhisperModel._from_config(config, **options).encoder, {"input_features": sound}


def t5(**options):
    config = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    inputs = {"input_ids": IDS, "attention_mask": PADDED, "decoder_input_ids": IDS[:, :9]}
    return T5Model._from_config(config, **options), inputs


MODELS = [bert, roberta_decoder, gpt2, llama, vit, whisper, t5]
# The T5 of 4.x has no attention but its eager one.
CASES = [
    pytest.param(make, kernel, id=f"{make.__name__}-{kernel}")
    for make in MODELS
    for kernel in ("sdpa", "eager")
    if make is not t5 or kernel == "eager" or T5Model._supports_sdpa
]
each_case = pytest.mark.parametrize(("make", "kernel"), CASES)
each_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


def output(model, inputs):
    return model(**inputs).last_hidden_state


def slopes(model, inputs):
    model.zero_grad()
    output(model, inputs).square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@each_case
def test_neutral_attention_equals_the_untouched_model_bit_for_bit(make, kernel):
    model, inputs = make(attn_implementation=kernel)
    model.eval()
    before, gradients = output(model, inputs), slopes(model, inputs)
    handle = attached(model)
    assert torch.equal(output(model, inputs), before)
    assert all(map(torch.equal, slopes(model, inputs), gradients))
    handle.remove()


@each_case
def test_a_baked_model_gives_the_tuned_outputs(make, kernel):
    model, inputs = make(attn_implementation=kernel)
    model.eval()
    before = output(model, inputs)
    handle = attached(model)
    apply(handle, varied(handle.sites))
    tuned = output(model, inputs)
    assert (tuned - before).abs().max() > 1e-3
    plain = handle.bake()
    torch.testing.assert_close(output(plain, inputs), tuned, atol=1e-5, rtol=1e-5)
    assert not any("attune" in name for name in plain.state_dict())
    handle.remove()
    assert torch.equal(output(model, inputs), before)


@pytest.mark.parametrize("kind", ["camembert", "electra", "mt5", "xlm-roberta"])
def test_models_with_copies_of_these_classes_are_tuned_like_them(kind):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    if kind != "mt5":
        sizes = {"intermediate_size": 64, "embedding_size": 32, **SMALL}
    config = AutoConfig.for_model(kind, vocab_size=99, **sizes)
    model = AutoModel.from_config(config).eval()
    inputs = {"input_ids": IDS + 3, "attention_mask": PADDED}
    if kind == "mt5":
        inputs["decoder_input_ids"] = IDS[:, :9]
    before = output(model, inputs)
    handle = attached(model)
    assert torch.equal(output(model, inputs), before)
    apply(handle, varied(handle.sites))
    tuned = output(model, inputs)
    assert (tuned - before).abs().max() > 1e-3
    torch.testing.assert_close(output(handle.bake(), inputs), tuned, atol=1e-5, rtol=1e-5)
    handle.remove()


@each_case
def test_measured_steps_report_all_sites_with_and_without_skipped_heads(make, kernel):
    model, inputs = make(attn_implementation=kernel)
    model.train()
    handle = attached(model, endpoint="ipc:///nobody/there")
    for setting in (attune.Setting.neutral(handle.job.heads), varied(handle.sites)):
        apply(handle, setting)
        for _ in range(8):
            loss = output(model, inputs).square().mean()
            loss.backward()
            handle.step(loss)
        observation = handle.last_observation
        assert observation.active == setting.active
        assert observation_fault(observation, handle.sites) is None
        entropies = observation.metrics[:: len(METRICS)]
        assert all((e > 0) == bool(a) for e, a in zip(entropies, observation.active))
        assert any(observation.metrics[METRICS.index("importance") :: len(METRICS)])
    handle.remove()


@each_case
def test_skipped_heads_do_not_reach_the_kernel(make, kernel, monkeypatch):
    model, inputs = make(attn_implementation=kernel)
    handle = attached(model)
    apply(handle, varied(handle.sites))
    heads = []
    softmax = torch.nn.functional.softmax
    attention = torch.nn.functional.scaled_dot_product_attention

    def seen_softmax(x, *args, **kwargs):
        heads.append(x.shape[1])
        return softmax(x, *args, **kwargs)

    def seen_attention(query, key, *args, **kwargs):
        heads.append(query.shape[1])
        return attention(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "softmax", seen_softmax)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen_attention)
    output(model, inputs)
    assert heads == [3] * len(handle.sites)
    handle.remove()


def without_dropout(model):
    for module in model.modules():
        for name in ("p", "dropout", "attention_dropout", "dropout_prob", "dropout_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def weights_of(outputs):
    """Of every site, in the order of the model: [batch, heads, queries, keys]."""
    of_decoder = outputs.get("decoder_attentions", outputs.get("attentions"))
    across = outputs.get("cross_attentions")
    if across:
        of_decoder = [site for pair in zip(of_decoder, across) for site in pair]
    return [*outputs.get("encoder_attentions", ()), *of_decoder]


@pytest.mark.parametrize("make", [*MODELS, gemma2], ids=lambda make: make.__name__)
@pytest.mark.parametrize("skipping", [False, True])
def test_measurements_are_those_of_the_weights_that_the_model_returns(make, skipping):
    model, inputs = make(attn_implementation="eager")
    without_dropout(model.train())
    handle = attached(model)
    active = [[head != 2 or not skipping for head in range(4)] for _ in handle.sites]
    if skipping:
        apply(handle, varied(handle.sites))
    draws = torch.full((measure.ROWS + measure.SEQUENCES,), 0.5)
    for place in handle._tuned.places:
        place.tuning.measure_next(draws)
    weights = weights_of(model(**inputs, output_attentions=True))
    for place, of_site, on in zip(handle._tuned.places, weights, active, strict=True):
        found = take_numbers([place.tuning])
        length = of_site.shape[2]
        first = min(length - 1, 15 if length >= 16 else 1) if place.tuning.site.causal else 0
        seen = of_site[:, :, measure.stratified(draws[: measure.ROWS], first, length)]
        assert seen.sum(-1).mean((0, 2)).tolist() == pytest.approx(list(map(float, on)))
        top, first_token = METRICS.index("top_weight"), METRICS.index("first_token_mass")
        torch.testing.assert_close(found[:, top], seen.amax(-1).mean((0, 2)))
        torch.testing.assert_close(found[:, first_token], seen[..., 0].mean((0, 2)))
    handle.remove()


def test_a_cap_that_the_kernel_leaves_out_is_not_measured():
    caps = []
    tuning = SimpleNamespace(record=lambda *arguments: caps.append(arguments[-1]))
    x = torch.randn(2, 4, 20, 8)
    for kernel in ("sdpa_attention_forward", "eager_attention_forward"):
        function = SimpleNamespace(__name__=kernel)
        _record(tuning, function, torch.nn.Module(), x, x, x, None, (), {"softcap": 0.5})
    assert caps == [0.0, 0.5]


@pytest.mark.parametrize("key_heads", [2, 4])
def test_gains_before_a_norm_go_into_values_where_each_head_has_its_own(key_heads):
    bitnet = pytest.importorskip("transformers.models.bitnet")
    config = bitnet.BitNetConfig(
        vocab_size=99, intermediate_size=64, num_key_value_heads=key_heads, **SMALL
    )
    model = bitnet.BitNetModel(config).eval()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    if key_heads == 4:
        with torch.no_grad():
            said = model(input_ids=IDS).last_hidden_state
            baked = handle.bake()(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(baked, said, atol=1e-5, rtol=1e-5)
    else:
        with pytest.raises(ValueError, match=r"normalises \(attn_sub_norm\) what its heads give"):
            handle.bake()
    handle.remove()


def test_a_norm_behind_the_output_projection_is_none_before_it():
    config = AlbertConfig(vocab_size=99, intermediate_size=64, embedding_size=16, **SMALL)
    model = AlbertModel(config).eval()
    if not any(calls_interface(type(module)) for module in model.modules()):
        pytest.skip("this version has an attention class of its own here")
    handle = attached(model)
    apply(handle, varied(handle.sites))
    with torch.no_grad():
        said = model(input_ids=IDS).last_hidden_state
        baked = handle.bake()(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(baked, said, atol=1e-5, rtol=1e-5)
    handle.remove()


@pytest.mark.parametrize("multi_query", [True, False])
def test_queries_that_lie_among_keys_and_values_take_up_no_scales_when_baked(multi_query):
    config = GPTBigCodeConfig(
        vocab_size=99, n_embd=32, n_head=4, n_layer=1, n_positions=32, multi_query=multi_query
    )
    model = GPTBigCodeModel(config).eval()
    if not calls_interface(type(model.h[0].attn)):
        pytest.skip("this version has an attention class of its own here")
    handle = attached(model)
    apply(handle, varied(handle.sites))
    if multi_query:
        with torch.no_grad():
            said = model(input_ids=IDS).last_hidden_state
            baked = handle.bake()(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(baked, said, atol=1e-5, rtol=1e-5)
    else:
        with pytest.raises(ValueError, match="has its queries among keys and values"):
            handle.bake()
    handle.remove()


@pytest.mark.parametrize("name", ["phi3", "gpt_neox"])
def test_where_queries_are_not_known_skipped_heads_can_be_baked_and_scales_cannot(name):
    fitting = {"pad_token_id": 0} if name == "phi3" else {}
    config = AutoConfig.for_model(name, vocab_size=99, intermediate_size=64, **SMALL, **fitting)
    model = AutoModel.from_config(config).eval()
    if not any(calls_interface(type(module)) for module in model.modules()):
        pytest.skip("this version has an attention class of its own here")
    handle = attached(model)
    neutral, mixed = handle.setting, varied(handle.sites)
    apply(handle, attune.Setting(neutral.scale, neutral.gain, mixed.active))
    with torch.no_grad():
        said = model(input_ids=IDS).last_hidden_state
        baked = handle.bake()(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(baked, said, atol=1e-5, rtol=1e-5)
    apply(handle, mixed)
    with pytest.raises(ValueError, match=r"query projection of .* is not known"):
        handle.bake()
    handle.remove()


def test_queries_that_meet_a_bias_of_the_modules_own_take_up_no_scales_when_baked():
    model, _ = llama()
    for layer in model.layers:
        layer.self_attn.bias_u = torch.nn.Parameter(torch.zeros(4, 8))
    handle = attached(model)
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match=r"parameters of its own \(bias_u\)"):
        handle.bake()
    handle.remove()


def test_queries_that_are_clipped_take_up_no_scales_when_baked():
    config = OlmoConfig(vocab_size=99, intermediate_size=64, clip_qkv=8.0, **SMALL)
    handle = attached(OlmoModel(config))
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match="OlmoAttention clips its queries"):
        handle.bake()
    handle.remove()


def test_sites_are_described_as_the_models_are():
    model, _ = t5()
    handle = attached(model)
    kinds = {site.name: (site.kind.name, site.causal, site.heads) for site in handle.sites}
    assert kinds["encoder.block.0.layer.0.SelfAttention"] == ("SELF", False, 4)
    assert kinds["decoder.block.0.layer.0.SelfAttention"] == ("SELF", True, 4)
    assert kinds["decoder.block.1.layer.1.EncDecAttention"] == ("CROSS", False, 4)
    handle.remove()
    model, _ = llama()
    handle = attached(model)
    site = handle.sites[0]
    assert (site.causal, site.heads, site.head_width, site.context) == (True, 4, 8, 64)
    handle.remove()


def test_the_interface_is_as_before_when_the_last_handle_goes(monkeypatch):
    # Handles of other tests may be there still.
    gc.collect()  # the last handles of other tests
    monkeypatch.setattr(patches, "_patches", patches._Patches())
    before = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS}
    first, second = attached(bert()[0]), attached(gpt2()[0])
    first.remove()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not before["sdpa"]
    second.remove()
    assert {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS} == before


@each_model
def test_attention_classes_are_as_before_when_the_last_handle_goes(make):
    models = [make()[0], make()[0]]
    kinds = {type(module) for module in models[0].modules()}
    before = {kind: vars(kind).get("forward") for kind in kinds}
    first, second = map(attached, models)
    first.remove()
    second.remove()
    assert {kind: vars(kind).get("forward") for kind in kinds} == before


@each_model
@pytest.mark.parametrize("made", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_stays_tuned_when_the_last_handle_goes(make, made, monkeypatch):
    gc.collect()  # the last handles of other tests
    monkeypatch.setattr(patches, "_patches", patches._Patches())
    model, inputs = make()
    model.eval()
    handle = attached(model)
    apply(handle, varied(handle.sites))
    tuned = output(model, inputs)
    twin = made(model)
    handle.remove()
    assert torch.equal(output(twin, inputs), tuned)
    assert not torch.equal(output(model, inputs), tuned)
    assert patches._patches._users
    del twin
    gc.collect()
    assert not patches._patches._users


@each_model
def test_another_model_is_not_touched(make):
    model, inputs = make()
    model.eval()
    before = output(model, inputs)
    one, other = attached(make()[0]), attached(gpt2()[0])
    apply(one, varied(one.sites))
    assert torch.equal(output(model, inputs), before)
    one.remove()
    assert torch.equal(output(model, inputs), before)
    other.remove()


@each_model
def test_a_layer_that_is_recomputed_in_the_backward_pass_has_the_same_gradients(make):
    model, inputs = make()
    without_dropout(model.train())
    handle = attached(model)
    apply(handle, varied(handle.sites))
    plain = slopes(model, {**inputs})
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    again = slopes(model, {**inputs})
    for one, other in zip(again, plain, strict=True):
        torch.testing.assert_close(one, other)
    handle.remove()


def test_an_action_does_not_recompile():
    torch._dynamo.reset()
    model, inputs = bert()
    model.eval()
    handle = attached(model)
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(model, backend=counter)
    for skipped in (0, 1, 2):
        active = bytes(head >= skipped for head in range(4)) * 2
        scale, gain, _ = vars(varied(handle.sites)).values()
        apply(handle, attune.Setting(scale, gain, active))
        torch.testing.assert_close(output(fast, inputs), output(model, inputs))
    # Once more when the first head of the job is skipped.
    assert counter.frame_count == 2
    handle.remove()


def test_a_t5_that_generates_with_a_cache_says_what_the_baked_one_says():
    torch.manual_seed(0)
    config = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    model = T5ForConditionalGeneration(config).eval()
    model.generation_config.decoder_start_token_id = 0
    handle = attached(model)
    apply(handle, varied(handle.sites))
    said = [
        each.generate(input_ids=IDS, attention_mask=PADDED, max_new_tokens=12, do_sample=False)
        for each in (model, handle.bake())
    ]
    assert torch.equal(*said)
    handle.remove()


@pytest.mark.parametrize("name", ["olmo2", "llama"])
def test_scales_that_no_weight_could_take_up_are_nobodys_to_change(name):
    model = AutoModel.from_config(
        AutoConfig.for_model(name, vocab_size=99, intermediate_size=64, **SMALL)
    )
    handle = attached(model)
    fixed = name == "olmo2"  # it normalises its queries
    assert handle.job.scale_fixed == (b"\1" * handle.job.heads if fixed else b"")
    apply(handle, replace(handle.setting, active=bytes([0, *[1] * (handle.job.heads - 1)])))
    handle.bake()


class Wrapped(nn.Module):
    """A projection as PEFT wraps it: with the weight of the one within."""

    def __init__(self, inner):
        super().__init__()
        self.base_layer = inner

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, x):
        return self.base_layer(x)


def test_adapters_that_are_not_merged_yet_fix_no_scales():
    config = LlamaConfig(vocab_size=99, intermediate_size=64, head_dim=16, **SMALL)
    model = LlamaModel(config)  # its heads are wider together than the model
    for layer in model.layers:
        layer.self_attn.q_proj = Wrapped(layer.self_attn.q_proj)
        layer.self_attn.o_proj = Wrapped(layer.self_attn.o_proj)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = attached(model)
    assert handle.job.scale_fixed == b""
    apply(handle, varied(handle.sites))
    with pytest.raises(ValueError, match="merge adapters"):
        handle.bake()


def test_a_module_with_other_heads_than_it_said_runs_untuned_and_is_named():
    model, inputs = gpt2()
    model.train()
    for layer in model.h:
        layer.attn.num_heads = 2  # it computes 4
    handle = attached(model, endpoint="ipc:///nobody/there")
    with pytest.warns(RuntimeWarning, match=r"site 'h\..*has 4 heads where it said 2"):
        for _ in range(8):
            loss = output(model, inputs).mean()
            handle.step(loss)
    handle.remove()


def test_heads_that_are_pruned_behind_attunes_back_leave_their_site_untuned_and_named():
    model, inputs = bert()
    block = model.encoder.layer[0].attention
    if calls_interface(type(block.self)):
        pytest.skip("this transformers asks its interface: heads are counted when it runs")
    handle = attached(model.train(), endpoint="ipc:///nobody/there")
    apply(handle, varied(handle.sites))
    block.prune_heads({0})
    words = r"site 'encoder\.layer\.0\..* has 3 heads where it said 4; it runs untuned"
    with pytest.warns(RuntimeWarning, match=words):
        for _ in range(8):
            handle.step(output(model, inputs).mean())
    handle.remove()


@pytest.mark.parametrize("make", [GPT2Model, DecisionTransformerModel])
def test_attention_that_goes_past_the_interface_is_left_out_by_name(make):
    sizes = {"n_embd": 32, "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}
    config = make.config_class(reorder_and_upcast_attn=True, **sizes)
    model = make._from_config(config, attn_implementation="eager")
    with (
        pytest.warns(
            UserWarning, match=r"'.*h\.0\.attn' is left out: with reorder_and_upcast_attn"
        ),
        pytest.raises(ValueError, match="has no attention that attune knows"),
    ):
        attached(model)
    if make is GPT2Model:  # the other kernels are the interface's in spite of it
        handle = attached(make._from_config(config, attn_implementation="sdpa"))
        assert len(handle.sites) == 2
        handle.remove()


def test_eager_attention_is_tuned_whatever_its_file_calls_it():
    llama4 = pytest.importorskip("transformers.models.llama4.modeling_llama4")
    config = llama4.Llama4VisionConfig(
        intermediate_size=128, image_size=16, patch_size=4, vision_output_dim=32,
        projector_input_dim=32, projector_output_dim=32, **SMALL,
    )  # fmt: skip
    model = llama4.Llama4VisionModel._from_config(config, attn_implementation="eager").eval()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = output(model, {"pixel_values": pixels})
    handle = attached(model)
    apply(handle, varied(handle.sites))
    tuned = output(model, {"pixel_values": pixels})
    assert not torch.equal(tuned, before)
    torch.testing.assert_close(output(handle.bake(), {"pixel_values": pixels}), tuned)
    handle.remove()
    assert torch.equal(output(model, {"pixel_values": pixels}), before)


def test_heads_that_do_not_divide_the_width_are_left_out_by_name():
    class Asking(torch.nn.Module):
        num_heads, embed_dim = 3, 32

        def forward(self, x):
            return ALL_ATTENTION_FUNCTIONS["sdpa"](self, x, x, x)

    model = torch.nn.ModuleDict({"odd": Asking(), "even": gpt2()[0]})
    with pytest.warns(UserWarning, match="'odd' is left out: how many heads Asking has"):
        handle = attached(model)
    assert [site.name for site in handle.sites] == ["even.h.0.attn", "even.h.1.attn"]
    handle.remove()


def test_projections_that_do_not_hold_the_heads_they_should_are_left_out_by_name():
    model, _ = bert()
    attention = model.encoder.layer[0].attention.self
    if calls_interface(type(attention)):
        pytest.skip("this transformers asks its interface: heads are counted when it runs")
    attention.num_attention_heads = 3
    with pytest.warns(UserWarning, match=r"'encoder\.layer\.0\.attention\.self' is left out"):
        handle = attached(model)
    assert [site.name for site in handle.sites] == ["encoder.layer.1.attention.self"]
    handle.remove()


def test_logits_with_relative_positions_are_tuned_and_not_measured():
    config = BertConfig(
        vocab_size=99, intermediate_size=64, position_embedding_type="relative_key", **SMALL
    )
    model = BertModel(config)
    if calls_interface(type(model.encoder.layer[0].attention.self)):
        pytest.skip("this transformers has no relative positions in BERT")
    model.train()
    handle = attached(model, endpoint="ipc:///nobody/there")
    apply(handle, varied(handle.sites))
    with pytest.warns(RuntimeWarning, match="cannot be measured: its logits hold relative"):
        for _ in range(8):
            handle.step(output(model, {"input_ids": IDS}).mean())
    handle.remove()
