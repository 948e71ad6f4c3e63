"""What is tuned: the scale, gain and activity of the heads of one attention module.

`Tuning` holds them as buffers of the module that it is attached to, so that they travel in the
model's state_dict. They are changed in place: torch.compile does not recompile for an action. With
neutral values nothing is computed differently, bit for bit. Heads that are not active are skipped:
they are cut out before the kernel, and an adapter that computes the projections itself leaves their
rows out too.

Not thread-safe: a model is tuned and run by one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attune import measure
from attune.values import Floats, Setting, Site, floats, setting_fault

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(query, key, value, mask) → output, all [batch, heads, length, width]."""

PASSES_PER_FORWARD = 3
"""Backward costs attention about twice its forward pass, as it does every other layer."""


def _never() -> bool:
    return False


def _is_compiling() -> Callable[[], bool]:
    """What says whether torch.compile is tracing this code: by another name in 2.1 and 2.2."""
    found: Callable[[], bool] | None
    found = getattr(getattr(torch, "compiler", None), "is_compiling", None)
    if found is None and hasattr(torch, "compiler"):
        from torch._dynamo import external_utils

        found = getattr(external_utils, "is_compiling", None)
    return found or _never


_compiling = _is_compiling()
# Says which backward pass runs in this thread; -1: none, and always in PyTorch 1.13.
_backward: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: -1)
# Whether torch.func transforms are at work, which take no such function as `_Weighed`.
_transforming: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", _never)


class Plan(NamedTuple):
    """What a forward pass needs of a tuning.

    Attributes:
        active: [A] the indices of the active heads; None where all are.
        scale: [A, 1, 1] factors on the queries; None where all are 1.
        gain: [A, 1, 1] factors on the outputs; None where all are 1. In a measured step a leaf of
            the graph stands behind it, and its gradient is the importance (`Tuning.weigh`).
    """

    active: Tensor | None
    scale: Tensor | None
    gain: Tensor | None


class _Weighed(torch.autograd.Function):
    """Outputs times gains. To a gain it gives back Σ |∂loss/∂gain| of the examples.

    As Michel et al. (1905.10650) have it: signs that differ between examples do not cancel.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(output, gain)
        return output * gain.to(output.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        output, gain = ctx.saved_tensors
        # [A, 1, 1] of [batch, A, queries, width], or [A, 1] of [batch, queries, A, width].
        others = (2, 3) if gain.dim() == 3 else (1, 3)
        slopes = (gradient * output).sum(others, dtype=torch.float32)  # [batch, A]
        # What is learned of the gradient itself (create_graph) is no business of the gain's.
        return gradient * gain.detach().to(gradient.dtype), slopes.abs().sum(0).view_as(gain)


class Shared:
    """What the sites of a job share in a measured step.

    Samples of sites that see the same are worked out together: on a GPU many small kernels, one
    site after the other, take longer than the attention itself. Of a site the last pass counts.

    Attributes:
        views: What rows see, by what it comes from, with the mask.
    """

    WAITING = 64 * 2**20
    """Bytes of keys from which on nothing waits any more."""

    VIEWS = 4
    """Kept at most: each batch of an accumulated step may come with a large mask of its own."""

    def __init__(self) -> None:
        self.views: dict[object, tuple[Tensor | None, measure.View]] = {}
        self._waiting: dict[Tuning, tuple[measure.Sample, Tensor]] = {}
        self._size = 0

    def add(self, tuning: Tuning, sample: measure.Sample, index: Tensor) -> None:
        """A site's sample, of the heads with these indices; it gets its numbers by `keep`."""
        if tuning not in self._waiting:
            self._size += sample.key.numel() * sample.key.element_size()
        self._waiting[tuning] = (sample, index)
        if self._size > self.WAITING:
            self.work_out()

    def work_out(self) -> None:
        """Gives the sites the numbers of all that waits.

        Where that fails (no memory left, say) they are left unmeasured, with the reason.
        """
        waiting, self._waiting, self._size = self._waiting, {}, 0
        groups: dict[object, list[Tuning]] = {}
        for tuning, (sample, _) in waiting.items():
            alike = (id(sample.view), sample.query.shape, sample.key.shape)
            groups.setdefault(alike, []).append(tuning)
        for tunings in groups.values():
            try:
                found = measure.numbers([waiting[tuning][0] for tuning in tunings])
                for tuning, numbers in zip(tunings, found.unbind(0)):  # noqa: B905
                    tuning.keep(numbers, waiting[tuning][1])
            except RuntimeError as error:
                for tuning in tunings:
                    tuning.leave_unmeasured(str(error).partition("\n")[0])


class Tuning(nn.Module):
    """The buffers of one site, and its measurement in a measured step.

    Attributes:
        site: What it tunes.
        scale: [heads] factors on the logits, 1/16 to 16.
        gain: [heads] factors on the outputs, 0 to 16.
        active: [heads] 1 for a head that is computed, 0 for one that is skipped.
    """

    claim: object = None  # of models that were pickled before there were these
    handle: Callable[[], object] | None = None

    scale: Tensor
    gain: Tensor
    active: Tensor
    index: Tensor
    leaf: Tensor
    measured: Tensor
    draws: Tensor

    def __init__(self, site: Site, device: torch.device | None = None) -> None:
        super().__init__()
        self.site = site
        heads = site.heads
        # Whatever the process's default: a setting in half would be another.
        real: Any = {"dtype": torch.float32, "device": device}
        self.register_buffer("scale", torch.ones(heads, **real))
        self.register_buffer("gain", torch.ones(heads, **real))
        self.register_buffer("active", torch.ones(heads, dtype=torch.uint8, device=device))
        # The numbers of the heads in a measured step, and where to measure: uniform draws.
        self._scratch("measured", torch.zeros(heads, measure.COLUMNS, **real))
        self._scratch("draws", torch.zeros(measure.ROWS + measure.SEQUENCES, **real))
        # No buffer: compiled code takes the shapes of buffers for constant.
        self.index = torch.arange(heads, device=device)
        self.leaf = torch.ones(heads, **real, requires_grad=True)
        self.measuring = False
        # Whether compiled code has to expect skipped heads: once set, it stays.
        self.skips = False
        # Whether heads cannot be cut out: then the ones that are not active are computed, and their
        # outputs are 0.
        self.uncut = False
        # From the checkpoint that is loaded next: it has the weights around, and no tuning.
        self.neutral_where_absent = False
        self.shared = Shared()  # of a measured step
        self.claim = None  # on what is patched outside of the module, for its adapter
        # Gives whose it is, or None where that has gone; a copy is nobody's.
        self.handle = None
        self.fault: str | None = None  # what keeps it from being tuned or measured, for people
        self.untuned = False  # it was left out: what is set has no effect
        self.seconds = 0.0  # processor time of the site in measured forwards, measuring left out
        self._plan = Plan(None, None, None)
        self._seen: tuple[object, ...] = ()

    def _scratch(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Tuning:
        """Moves with the model, but keeps its precision: a setting in half would be another."""
        before, device = dict(self._buffers), self.scale.device
        super()._apply(fn, *args, **kwargs)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        now = self.scale.device
        if "meta" not in (device.type, now.type) and now != device:
            self.plan()  # compiled code takes what goes with the buffers as it finds it
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """A checkpoint of before attune loads as neutral; one of another topology is an error."""
        for name in ("scale", "gain", "active"):
            value = state_dict.get(prefix + name)
            if value is None:
                now = getattr(self, name).detach()
                absent = torch.ones_like(now) if self.neutral_where_absent else now.clone()
                state_dict[prefix + name] = absent
            elif tuple(value.shape) != (self.site.heads,):
                raise ValueError(
                    f"the checkpoint has {value.numel()} heads at site '{self.site.name}' and the "
                    f"model {self.site.heads}: the topology changed; load the checkpoint without "
                    f"'{prefix}{name}' to begin anew"
                )
        self.neutral_where_absent = False
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not self.scale.is_meta:
            self.plan()  # compiled code does not look whether buffers were written

    def __getstate__(self) -> dict[str, Any]:
        """A copy belongs to no handle, and to no step that is being measured."""
        return {**self.__dict__, "measuring": False, "shared": Shared(), "handle": None}

    def apply_setting(self, part: Setting) -> None:
        """Takes effect at the next forward.

        Args:
            part: One entry for every head of this site.

        Raises:
            ValueError: Where it cannot be used; then nothing is changed.
        """
        fault = setting_fault(part, (self.site,))
        if fault:
            raise ValueError(fault)
        with torch.no_grad():
            self.scale.copy_(torch.tensor(part.scale.tolist(), dtype=torch.float32))
            self.gain.copy_(torch.tensor(part.gain.tolist(), dtype=torch.float32))
            self.active.copy_(torch.tensor(list(part.active), dtype=torch.uint8))
        self.plan()

    def setting(self) -> Setting:
        """What the buffers say now.

        Raises:
            ValueError: Where they were loaded or written with what cannot be used.
        """
        part = Setting(
            _to_floats(self.scale),
            _to_floats(self.gain),
            bytes(int(value != 0) for value in self.active.tolist()),
        )
        fault = setting_fault(part, (self.site,))
        if fault:
            raise ValueError(fault)
        return part

    def version(self) -> tuple[object, ...]:
        """Changes when a buffer was written, loaded or moved; told without reading its data."""
        return tuple(
            (id(buffer), buffer._version) for buffer in (self.scale, self.gain, self.active)
        )

    def plan(self) -> Plan:
        """What a forward pass needs, made anew when a buffer was written, loaded or moved."""
        if _compiling():
            return self._compiled_plan()
        if self._seen != self.version():
            self._refresh()
        if self.measuring and self.training:
            return self._plan._replace(gain=self._per_head(self._plan.active, self.leaf))
        return self._plan

    def _compiled_plan(self) -> Plan:
        # Nothing depends on the buffers' content: an action changes no guard.
        index = self.index if self.skips else None
        gain = self.leaf if self.measuring and self.training else self.gain
        if self.uncut:
            gain = gain * self.active
        return Plan(index, self._per_head(index, self.scale), self._per_head(index, gain))

    @staticmethod
    def _per_head(index: Tensor | None, values: Tensor) -> Tensor:
        part = values if index is None else values.index_select(0, index)
        return part.view(-1, 1, 1)

    def _refresh(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            now = self.setting()
            heads = [head for head, active in enumerate(now.active) if active]
            self.index = torch.tensor(heads, device=self.scale.device)
            if _compiling is not _never and hasattr(torch._dynamo, "maybe_mark_dynamic"):
                torch._dynamo.maybe_mark_dynamic(self.index, 0)
            index = None if self.uncut or len(heads) == self.site.heads else self.index
            self.skips = self.skips or index is not None
            gains = self.gain * self.active if self.uncut else self.gain
            if self.leaf.device != self.gain.device:
                self.leaf = self.gain.detach().float().clone().requires_grad_()
            self.leaf.data.copy_(gains)
            self._plan = Plan(index, self._factors(index, self.scale), self._factors(index, gains))
            self._seen = self.version()

    @classmethod
    def _factors(cls, index: Tensor | None, values: Tensor) -> Tensor | None:
        part = cls._per_head(index, values.detach().clone())
        return None if bool((part == 1).all()) else part

    def leave_out(self, why: str) -> None:
        """Notes, once, why this site is run untuned: in words that follow the site's name."""
        self.untuned = True
        if self.fault is None:
            self.fault = f"{why}; it runs untuned"

    def fits(self, heads: int, key_heads: int) -> bool:
        """Whether the module runs with the heads that it said; it is left out where it does not."""
        said = self.site.heads
        if heads == said and said % key_heads == 0:
            if self.untuned:
                self.untuned = False
            return True
        over = "" if key_heads == heads else f" over {key_heads} of the keys"
        self.leave_out(f"has {heads} heads{over} where it said {said}")
        return False

    def leave_unmeasured(self, why: str) -> None:
        """Notes, once, why this site cannot be measured."""
        if self.fault is None:
            self.fault = f"cannot be measured: {why}"

    def took(self, seconds: float) -> None:
        """Counts what a forward pass took, of a measured step.

        A backward pass that computes it again (activation checkpointing) adds that pass alone; the
        first one stands for its backward pass too.
        """
        self.seconds += seconds if _backward() == -1 else seconds / PASSES_PER_FORWARD

    def measure_next(
        self,
        draws: Tensor,
        shared: Shared | None = None,
    ) -> None:
        """Lets the forward passes in training mode measure themselves, until `take_numbers`.

        Args:
            draws: [ROWS + SEQUENCES] uniform numbers in [0, 1), which choose where.
            shared: By the sites that measure the same step with the same draws; None: by no other.
        """
        self.plan()
        with torch.no_grad():
            self.draws.copy_(draws)
            self.measured.zero_()
        self.leaf.grad = None
        self.seconds = 0.0
        self.shared = Shared() if shared is None else shared
        self.measuring = True

    def measure_no_more(self) -> None:
        """Ends the measured step, and lets go of what it left."""
        self.measuring = False
        self.shared = Shared()

    def record(
        self,
        query: Tensor,
        key: Tensor,
        output: Tensor,
        scaling: float,
        mask: Tensor | None,
        causal: bool,
        softcap: float = 0.0,
    ) -> None:
        """Measures a forward pass where that was wished; arguments as those of `measure`.

        Heads are the active ones, or all where none can be cut out. Where all are computed, keys
        may be as few as they came.
        """
        if not (self.measuring and self.training):
            return
        if query.shape[0] == 0 or query.shape[2] == 0 or key.shape[2] < 2:
            return
        if _compiling():
            sample = self._sample(query, key, output, scaling, mask, causal, softcap)
            self.keep(measure.numbers([sample])[0], self.index)
            return
        try:
            sample = self._sample(query, key, output, scaling, mask, causal, softcap)
        except RuntimeError as error:
            self.leave_unmeasured(str(error).partition("\n")[0])
        else:
            self.shared.add(self, sample, self.index)

    def _sample(
        self,
        query: Tensor,
        key: Tensor,
        output: Tensor,
        scaling: float,
        mask: Tensor | None,
        causal: bool,
        softcap: float,
    ) -> measure.Sample:
        query, key, output = query.detach(), key.detach(), output.detach()
        if self.uncut:
            groups = query.shape[1] // key.shape[1]
            key = key.index_select(1, self.index if groups == 1 else self.index // groups)
            query, output = query.index_select(1, self.index), output.index_select(1, self.index)
            mask = self.cut_mask(mask, self.index)
        batch, length, keys = query.shape[0], query.shape[2], key.shape[2]
        view = self._view(mask, causal, softcap, batch, length, keys)
        return measure.sample(query, key, output, view, scaling)

    def keep(self, found: Tensor, index: Tensor) -> None:
        """Takes the numbers of the heads that a pass has computed, [heads computed, COLUMNS]."""
        with torch.no_grad():
            found = found.to(self.measured.dtype)  # of a model in double precision, say
            if self.skips or self.uncut:
                self.measured.index_copy_(0, index, found)
            else:
                self.measured.copy_(found)

    def _view(
        self,
        mask: Tensor | None,
        causal: bool,
        softcap: float,
        batch: int,
        length: int,
        keys: int,
    ) -> measure.View:
        """What the sampled rows see; the sites of a job that see the same share it."""
        # Rows that see 16 keys, or 2 where the input is shorter.
        first = min(length - 1, 15 if length >= 16 else 1) if self.site.causal else 0
        views = None if _compiling() else self.shared.views
        if views is not None:
            at = None if mask is None else _identity(mask)
            what = (self.draws.device, at, causal, softcap, first, batch, length, keys)
            if what in views:
                return views[what][1]
        with torch.no_grad():
            rows = measure.stratified(self.draws[: measure.ROWS], first, length)
            sequences = measure.stratified(self.draws[measure.ROWS :], 0, batch)
        view = measure.look(rows, sequences, batch, length, keys, mask, causal, softcap)
        if views is not None:
            while len(views) >= Shared.VIEWS:
                del views[next(iter(views))]
            # With the mask, so that no other comes to lie at its place.
            views[what] = (mask, view)
        return view

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel: Kernel,
        *,
        scaling: float,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attention by any kernel, tuned: for modules that compute their projections themselves.

        Args:
            query: [batch, heads, queries, width].
            key: [batch, key heads, keys, width]; key heads divide heads.
            value: As key.
            kernel: Called with the active heads; key and value have as many heads as the query, or
                what they came with where all heads are active.
            scaling: Factor on the logits that the kernel applies, for the measurement.
            mask: Handed to the kernel, cut to the active heads where it has its own for each.
            causal: Whether the kernel hides later keys by itself.

        Returns:
            [batch, heads, queries, width]; zeros at heads that were skipped.
        """
        if not self.fits(query.shape[1], key.shape[1]):
            return kernel(query, key, value, mask)
        timed = self.measuring and self.training and not _compiling()
        start = time.process_time() if timed else 0.0
        if mask is not None and mask.dim() == 3:
            mask = mask.unsqueeze(0)  # [heads, queries, keys], as it broadcasts
        plan = self.plan()
        groups = self.site.heads // key.shape[1]
        if plan.active is not None:
            query = query.index_select(1, plan.active)
            shared = plan.active if groups == 1 else plan.active // groups
            key, value = key.index_select(1, shared), value.index_select(1, shared)
            mask = self.cut_mask(mask, plan.active)
        if plan.scale is not None:
            query = query * plan.scale.to(query.dtype)
        output = kernel(query, key, value, mask)
        if plan.gain is not None:
            output = self.weigh(output, plan.gain)
        if timed:
            self.took(time.process_time() - start)
        self.record(query, key, output, scaling, mask, causal)
        if plan.active is None:
            return output
        return self.restore(output, plan.active, 1)

    @staticmethod
    def weigh(output: Tensor, gain: Tensor) -> Tensor:
        """The heads' outputs times their gains.

        Where nothing is learned of the outputs the gains of a measured step (which are) would make
        the whole model behind them keep what a backward pass needs: their gradient is 0 then.

        Args:
            output: [batch, A, queries, width], or [batch, queries, A, width].
            gain: [A, 1, 1], or [A, 1].
        """
        learned = output.requires_grad and gain.requires_grad
        if learned and (_compiling() or not _transforming()):
            weighed: Tensor = _Weighed.apply(output, gain)  # type: ignore[no-untyped-call]
            return weighed
        return output * gain.detach().to(output.dtype)

    def cut_mask(self, mask: Tensor | None, index: Tensor) -> Tensor | None:
        """The mask of the active heads; as it is where all share it, or where it is no tensor."""
        if not isinstance(mask, Tensor) or mask.dim() < 4 or mask.shape[1] != self.site.heads:
            return mask
        return mask if self.site.heads == 1 else mask.index_select(1, index)

    def restore(self, part: Tensor, index: Tensor, dim: int) -> Tensor:
        """All heads, with zeros at those that were skipped."""
        shape = list(part.shape)
        shape[dim] = self.site.heads
        return part.new_zeros(shape).index_copy(dim, index, part)


def take_numbers(tunings: Sequence[Tuning], loss_scale: float = 1.0) -> Tensor:
    """Ends the measured step of these sites.

    Args:
        tunings: Of the sites, on any devices.
        loss_scale: By which the loss was multiplied before its backward pass.

    Returns:
        [heads of all sites, COLUMNS], on the first site's device, with what the backward pass gave
        to the gain as importance; the last column is 0 in rows that were not measured.
    """
    for tuning in tunings:
        tuning.shared.work_out()
        tuning.measure_no_more()
    device = tunings[0].measured.device
    result = torch.cat([tuning.measured.to(device) for tuning in tunings])
    found = [
        torch.zeros_like(tuning.leaf) if tuning.leaf.grad is None else tuning.leaf.grad
        for tuning in tunings
    ]
    for tuning in tunings:
        tuning.leaf.grad = None
    importance = torch.cat([of_site.to(device) for of_site in found])
    result[:, measure.IMPORTANCE] = importance * result[:, -1].clamp(0, 1) / loss_scale
    return result


def _identity(mask: Tensor) -> tuple[object, ...]:
    """What tells a mask from another, and from itself before it was written to."""
    version = 0 if mask.is_inference() else mask._version
    return mask.data_ptr(), version, mask.dtype, mask.shape, mask.stride()


def _to_floats(buffer: Tensor) -> Floats:
    return floats(buffer.detach().float().tolist())


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """scaled_dot_product_attention, also where PyTorch has none yet (before 2.0) or no `scale`.

    Heads of keys and values may be fewer than those of the queries by a whole factor.
    """
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if hasattr(F, "scaled_dot_product_attention"):
        if scale is not None:
            query = query * (scale * query.shape[-1] ** 0.5)
        return F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
    scaling = query.shape[-1] ** -0.5 if scale is None else scale
    logits = torch.matmul(query * scaling, key.transpose(-2, -1))
    if causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(later, float("-inf"))
    if mask is not None:
        hidden = mask.dtype == torch.bool
        logits = logits.masked_fill(~mask, float("-inf")) if hidden else logits + mask
    return torch.matmul(F.dropout(torch.softmax(logits, -1), dropout), value)
