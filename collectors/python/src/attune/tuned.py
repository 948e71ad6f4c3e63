"""A model with its tunings: attaching them, changing them whole, and baking them in.

Used from the trainer's thread.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from attune.adapters import NAME, Adapter, NotReadyError
from attune.adapters.own import Attention
from attune.attention import Shared, Tuning, take_numbers
from attune.values import Setting, Site, floats, setting_fault

# Where DistributedDataParallel looks for the buffers that it need not spread.
_DDP_IGNORED = "_ddp_params_and_buffers_to_ignore"


def _own_state(module: nn.Module) -> list[str]:
    """What its checkpoint has, without attune's."""
    return [name for name in module.state_dict() if f".{NAME}." not in f".{name}"]


def _look_at_checkpoint(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object, path: str
) -> None:
    """One that has only a part of the weights (those of adapters, say) says nothing of tuning.

    Args:
        module: Holds the tuned module at `path`, and weights of its own.
        state_dict: The checkpoint.
        prefix: Of the module's names in it.
        path: Of the tuned module in the module.
    """
    try:
        tuning = module.get_submodule(path)._modules.get(NAME)
    except AttributeError:
        return  # it was taken out since
    if not isinstance(tuning, Tuning):
        return
    tuning.neutral_where_absent = all(prefix + name in state_dict for name in _own_state(module))


class Place(NamedTuple):
    """One tuned module: where it is, what tunes it, and what takes that away again."""

    name: str
    adapter: Adapter
    module: nn.Module
    tuning: Tuning
    restore: Callable[[], None]


class TunedModel:
    """The tuned modules of a model, in its order.

    Args:
        model: Any module; DistributedDataParallel and compiled ones too.
        adapters: How attention is found.

    Raises:
        ValueError: For a model without attention that they know, and one that is tuned already; the
            model is left as it was.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[Adapter]) -> None:
        self.model = unwrapped(model)
        self.places: list[Place] = []
        self._ignored: object | None = None
        for name, module in self.model.named_modules():
            if isinstance(module, Tuning):
                named = name.removesuffix(NAME).removesuffix(".") or "attention"
                raise ValueError(f"'{named}' {_why_tuned(module)}")
        order = {name: place for place, (name, _) in enumerate(self.model.named_modules())}
        found = [
            (order.get(name, 0), name, adapter, module, site)
            for adapter in adapters
            for name, module, site in adapter.find(self.model)
        ]
        _warn_of_subclasses(self.model, [name for _, name, *_ in found])
        if not found:
            raise ValueError(
                f"{type(self.model).__name__} has no attention that attune knows: nothing to tune; "
                "see attune.adapters for attention of your own"
            )
        seen: set[int] = set()
        for _, name, adapter, module, site in sorted(found, key=lambda item: item[0]):
            if id(module) in seen:
                continue
            seen.add(id(module))
            tuning = Tuning(replace(site, name=name or "attention"), device_of(name, self.model))
            tuning.train(module.training)
            self.places.append(Place(name, adapter, module, tuning, lambda: None))
        self.scale_fixed = self._find_fixed_scales()
        self.attach()
        self.setting = self.read()
        self._versions = self._buffer_versions()

    @property
    def sites(self) -> tuple[Site, ...]:
        """What is tuned."""
        return tuple(place.tuning.site for place in self.places)

    @property
    def heads(self) -> int:
        """Of all sites."""
        return sum(site.heads for site in self.sites)

    def _find_fixed_scales(self) -> bytes:
        """1 for a head whose scale no weight could take up; empty where there is none.

        Warns of a module that could not even be baked with a head less.
        """
        # Copies of modules share these, so that nothing large is copied.
        meta: dict[int, Any] = {}
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            try:
                meta[id(tensor)] = _without_data(tensor)
            except Exception:  # of a lazy module before its first pass, say: it is copied as it is
                continue
        fixed = b""
        unbaked: list[str] = []
        for place in self.places:
            heads = place.tuning.site.heads
            scaled, fewer = Setting.neutral(heads), Setting.neutral(heads)
            scaled.scale[:] = floats([2.0] * heads)
            fewer = replace(fewer, active=bytes([int(heads == 1), *[1] * (heads - 1)]))
            fixed += bytes([_fault_of(place, scaled, meta) is not None]) * heads
            fault = _fault_of(place, fewer, meta)
            if fault is not None:
                unbaked.append(f"'{place.name}' is tuned and cannot be baked: {fault}")
        if unbaked:
            others = f"; nor can {len(unbaked) - 1} others" if len(unbaked) > 1 else ""
            warnings.warn(f"attune: {unbaked[0]}{others}", stacklevel=5)
        return fixed if any(fixed) else b""

    def attach(self) -> None:
        """Lets the modules' forward passes through their tunings."""
        self.places = [
            place._replace(restore=place.adapter.install(place.module, place.tuning))
            for place in self.places
        ]
        names = [
            ".".join(filter(None, (place.name, NAME, buffer)))
            for place in self.places
            for buffer, _ in place.tuning.named_buffers()
        ]
        # The ranks change them alike, each by itself.
        self._ignored = self.model.__dict__.get(_DDP_IGNORED)
        setattr(self.model, _DDP_IGNORED, [*(self._ignored or ()), *names])
        self._hooks = []
        there = dict(self.model.named_modules())
        for place in self.places:
            holder, path = _holder(place, there)
            self._hooks.append(
                holder._register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
                    functools.partial(_look_at_checkpoint, path=path), with_module=True
                )
            )

    def detach(self) -> None:
        """Restores the model exactly."""
        for hook in self._hooks:
            hook.remove()
        for place in reversed(self.places):
            place.restore()
        if self._ignored is None:
            delattr(self.model, _DDP_IGNORED)
        else:
            setattr(self.model, _DDP_IGNORED, self._ignored)

    def apply(self, setting: Setting) -> str | None:
        """Applies the setting whole or not at all; what was wrong, or None."""
        fault = setting_fault(setting, self.sites)
        if fault:
            return fault
        try:
            for place, part in zip(self.places, self._parts(setting), strict=False):
                place.tuning.apply_setting(part)
        except Exception as error:
            for place, part in zip(self.places, self._parts(self.setting), strict=False):
                place.tuning.apply_setting(part)
            return f"{type(error).__name__}: {error}"
        self.setting = setting
        self._spread_skips()
        self._versions = self._buffer_versions()
        return None

    def measure_next(self, draws: torch.Tensor) -> None:
        """Lets the next step measure itself: all sites on the same rows, drawn fresh each time."""
        shared = Shared()
        there: dict[torch.device, torch.Tensor] = {}  # brought to each device once
        for place in self.places:
            device = place.tuning.draws.device
            if device not in there:
                there[device] = draws.to(device)
            place.tuning.measure_next(there[device], shared)

    def take_numbers(self, loss_scale: float) -> torch.Tensor:
        """Ends the measured step; see `attention.take_numbers`."""
        return take_numbers([place.tuning for place in self.places], loss_scale)

    def follow(self) -> bool:
        """Takes up what the buffers say where a checkpoint was loaded, or the model moved.

        Returns:
            Whether it is another setting.
        """
        versions = self._buffer_versions()
        if versions == self._versions:
            return False
        self._versions = versions
        before, self.setting = self.setting, self.read()
        for place in self.places:
            place.tuning.plan()
        self._spread_skips()
        return self.setting != before

    def read(self) -> Setting:
        """What the buffers say now."""
        parts = [place.tuning.setting() for place in self.places]
        scale, gain = floats(), floats()
        for part in parts:
            scale.extend(part.scale)
            gain.extend(part.gain)
        return Setting(scale, gain, b"".join(part.active for part in parts))

    def bake(self, attached: bool) -> nn.Module:
        """A copy of the model that computes the same without tunings.

        Args:
            attached: Whether the tunings are in the model now.

        Raises:
            ValueError: Where a module has no weights that could take it up, naming the module.
        """
        setting = self.read()
        # What was taken out of the model since computes nothing there.
        there = dict(self.model.named_modules())
        kept = [there.get(place.name) is place.module for place in self.places]
        if attached:
            self.detach()
        try:
            plain = copy.deepcopy(self.model)
        finally:
            if attached:
                self.attach()
        modules = dict(plain.named_modules())
        folded: dict[int, Setting] = {}  # weights that have been, by their identity
        for place, part, is_kept in zip(self.places, self._parts(setting), kept, strict=True):
            if not is_kept or place.tuning.untuned or part.is_neutral:
                continue
            module = modules[place.name]
            try:
                _expect_projections(module, modules)
                weights = _weights(module)
                if any(folded.get(id(weight), part) != part for weight in weights):
                    raise ValueError("it shares weights with a site that has another setting")
                if not any(id(weight) in folded for weight in weights):
                    place.adapter.bake(module, part)
                folded |= dict.fromkeys(map(id, weights), part)
            except ValueError as error:
                site = place.tuning.site.name
                raise ValueError(f"site '{site}' cannot be baked: {error}") from None
        return plain

    def bake_in_place(self) -> None:
        """Takes the tunings out of the model, whose own weights compute the same from here on.

        Raises:
            ValueError: As `bake`, and for a model with adapters (PEFT) that are not merged: they
                would be saved without what was folded into the weights around them. The model is
                left as it was.
        """
        changed: list[tuple[torch.Tensor, torch.Tensor]] = []
        if not self.read().is_neutral:
            if _has_adapters(self.model):
                raise ValueError("its adapters are not merged (merge_and_unload)")
            plain = self.bake(attached=True)
            pairs = zip(self.model.parameters(), plain.parameters(), strict=True)
            changed = [(own, baked) for own, baked in pairs if not torch.equal(own, baked)]
        self.detach()
        for place, part in zip(self.places, self._parts(Setting.neutral(self.heads)), strict=True):
            place.tuning.apply_setting(part)
        self.setting = self.read()
        with torch.no_grad():
            for own, baked in changed:
                own.copy_(baked)

    def _parts(self, setting: Setting) -> list[Setting]:
        """The setting of each site."""
        parts = []
        first = 0
        for site in self.sites:
            own = slice(first, first + site.heads)
            parts.append(Setting(setting.scale[own], setting.gain[own], setting.active[own]))
            first = own.stop
        return parts

    def _spread_skips(self) -> None:
        # Compiled code is made anew once when the first head of the job is skipped, not per site.
        if any(place.tuning.skips for place in self.places):
            for place in self.places:
                place.tuning.skips = True

    def _buffer_versions(self) -> list[tuple[object, ...]]:
        return [place.tuning.version() for place in self.places]


def _why_tuned(tuning: Tuning) -> str:
    """Why a module is tuned already, and what to do, behind its name."""
    if tuning.handle is None:
        return "is a copy of a tuned module: copy what the handle's bake() gives"
    if tuning.handle() is None:
        return "is tuned by a handle that is gone: keep it; now load the weights into a new model"
    return "is tuned already: remove() the other handle first (attune.Handle.of(model))"


def _warn_of_subclasses(model: nn.Module, found: list[str]) -> None:
    """Of torch.nn.MultiheadAttention, that no adapter took: here alone all finds are known."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.MultiheadAttention) or type(module) is nn.MultiheadAttention:
            continue
        path = f"{name}." if name else ""
        if not any(f"{one}.".startswith(path) for one in found):  # it, or what it is made of
            warnings.warn(
                f"attune: '{name}' is left out: {type(module).__name__} is no plain Multihead"
                "Attention; remove parametrizations, or write an adapter (attune.adapters)",
                stacklevel=5,
            )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and torch.compile."""
    inner: Any = model
    while True:
        name = type(inner).__name__
        if name == "OptimizedModule":
            inner = inner._orig_mod
        elif name in ("DistributedDataParallel", "DataParallel"):
            inner = inner.module
        else:
            return inner  # type: ignore[no-any-return]


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _fault_of(place: Place, setting: Setting, meta: dict[int, Any]) -> str | None:
    """Why no weights of the module's architecture could take the setting up, if that is so."""
    try:
        # accelerate's hooks may hold the weights of the whole model.
        kept = [vars(place.module).get(name) for name in ("config", "_hf_hook", "forward")]
        memo = {**meta, **{id(one): one for one in kept}}
        place.adapter.bake(copy.deepcopy(place.module, memo), setting)
    except NotReadyError:
        return None
    except ValueError as error:
        return str(error)
    except Exception:  # what cannot be copied, or has no meta tensors, is told when it is baked
        return None
    return None


def _has_adapters(model: nn.Module) -> bool:
    """As PEFT puts them around a model, or transformers into one."""
    return bool(
        getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False)
    )


def _weights(module: nn.Module) -> list[nn.Parameter]:
    """What an attention module is folded into."""
    projections = module.projections if isinstance(module, Attention) else ()
    return [
        weight for one in (module, *projections) if one is not None for weight in one.parameters()
    ]


def _expect_projections(module: nn.Module, modules: dict[str, nn.Module]) -> None:
    """What a module was told of its projections is of when it was made: are they still in use?"""
    if not isinstance(module, Attention):
        return
    names = {id(one): name for name, one in modules.items()}
    for projection in module.projections:
        if projection is None:
            continue
        name = names.get(id(projection))
        if name is None or name.rpartition(".")[2] == "base_layer":  # as PEFT calls it
            raise ValueError(
                "a projection that it was told of was replaced or wrapped since; merge adapters, "
                "or make attune.Attention anew"
            )


def _holder(place: Place, there: dict[str, nn.Module]) -> tuple[nn.Module, str]:
    """The nearest module with weights that is or holds the place's, and the path from it."""
    path = place.name.split(".") if place.name else []
    if there.get(place.name) is place.module:
        for end in range(len(path), -1, -1):
            holder = there[".".join(path[:end])]
            if _own_state(holder):
                return holder, ".".join(path[end:])
    return place.module, ""


def device_of(name: str, model: nn.Module) -> torch.device | None:
    """Where the weights of the module with this name lie; of the nearest around it that has any."""
    path = name.split(".") if name else []
    for end in range(len(path), -1, -1):
        weight = next(model.get_submodule(".".join(path[:end])).parameters(), None)
        if weight is not None:
            return weight.device
    return None
