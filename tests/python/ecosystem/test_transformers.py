"""Models of Hugging Face transformers, randomly initialised, through its attention interface."""

import attune
import pytest
import torch
from attune.values import METRICS, observation_fault
from models import apply, attached, varied
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    T5Config,
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
    return GPT2Model._from_config(config, **options), {"input_ids": IDS}


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


MODELS = [bert, gpt2, llama, vit, whisper, t5]
each_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
each_kernel = pytest.mark.parametrize("kernel", ["sdpa", "eager"])


def output(model, inputs):
    return model(**inputs).last_hidden_state


def slopes(model, inputs):
    model.zero_grad()
    output(model, inputs).square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@each_model
@each_kernel
def test_neutral_attention_equals_the_untouched_model_bit_for_bit(make, kernel):
    model, inputs = make(attn_implementation=kernel)
    model.eval()
    before, gradients = output(model, inputs), slopes(model, inputs)
    handle = attached(model)
    assert torch.equal(output(model, inputs), before)
    assert all(map(torch.equal, slopes(model, inputs), gradients))
    handle.remove()


@each_model
@each_kernel
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


@each_model
@each_kernel
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


@each_kernel
def test_skipped_heads_do_not_reach_the_kernel(kernel, monkeypatch):
    model, inputs = llama(attn_implementation=kernel)
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
    assert heads == [3, 3]
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


def test_the_interface_is_as_before_when_the_last_handle_goes():
    before = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS}
    first, second = attached(bert()[0]), attached(gpt2()[0])
    first.remove()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not before["sdpa"]
    second.remove()
    assert {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS} == before


def test_another_model_is_not_touched():
    model, inputs = bert()
    model.eval()
    before = output(model, inputs)
    handle = attached(gpt2()[0])
    assert torch.equal(output(model, inputs), before)
    handle.remove()


def test_a_module_with_other_heads_than_it_said_runs_untuned_and_is_named():
    model, inputs = bert()
    model.train()
    for layer in model.encoder.layer:
        layer.attention.self.num_attention_heads = 2  # it computes 4
    handle = attached(model, endpoint="ipc:///nobody/there")
    with pytest.warns(RuntimeWarning, match=r"site 'encoder\.layer\..*has 4 heads where it said 2"):
        for _ in range(8):
            loss = output(model, inputs).mean()
            handle.step(loss)
    handle.remove()
