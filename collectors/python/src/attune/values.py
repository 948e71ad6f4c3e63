"""What a job looks like to attune, as plain values, and the checks that they can be used.

The same values as `env/topology.h`, `env/job.h`, `env/setting.h` and `env/observation.h` of the
daemon. Heads are numbered through the whole job: head h of site s stands at (heads of the sites
before s) + h, and every per-head array is laid out in that order. Values are immutable by
convention and may be shared between threads.
"""

from __future__ import annotations

import enum
import math
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Floats = array[float]
else:
    Floats = array

METRICS = (
    "entropy",
    "largest_logit",
    "top_weight",
    "first_token_mass",
    "output_norm",
    "importance",
    "redundancy",
)
"""One head's numbers in a measured step, in the order of the wire (`env/observation.h`)."""

PROFILE_BINS = 16
"""Sixteenths of what a query sees, nearest first."""

MIN_SCALE, MAX_SCALE = 1 / 16, 16.0
MIN_GAIN, MAX_GAIN = 0.0, 16.0

MAX_SITES = 4096
MAX_HEADS = 65_536
MAX_HEADS_PER_SITE = 1024
MAX_NAME_BYTES = 200

_SHARES = frozenset(map(METRICS.index, ("entropy", "top_weight", "first_token_mass", "redundancy")))
_NORMS = frozenset(map(METRICS.index, ("output_norm", "importance")))
_SHARE_TOLERANCE = 1e-3
_SUM_TOLERANCE = 1e-2


def floats(values: Iterable[float] = ()) -> Floats:
    """An array of 32-bit floats, as per-head numbers travel."""
    return array("f", values)


class SiteKind(enum.IntEnum):
    """Where a site's keys come from."""

    SELF = 0
    CROSS = 1


class BudgetKind(enum.IntEnum):
    """The unit of a budget."""

    COMPUTE = 0
    STEPS = 1


class Outcome(enum.IntEnum):
    """How a job ended."""

    RUNNING = 0
    FINISHED = 1
    FAILED = 2
    LOST = 3


@dataclass(frozen=True)
class Site:
    """One attention module of a job's model.

    Attributes:
        name: As the trainer calls it, unique in its job; 1 to 200 bytes of printable UTF-8.
        kind: Self- or cross-attention.
        causal: Whether a query sees only keys up to its own position.
        heads: 1 to 1,024.
        head_width: Dimensions of one head, at least 1.
        context: Keys that a query can see at most, at least 1.
    """

    name: str
    kind: SiteKind = SiteKind.SELF
    causal: bool = False
    heads: int = 1
    head_width: int = 1
    context: int = 1


@dataclass(frozen=True)
class Budget:
    """How long a job trains.

    Attributes:
        kind: The unit of `amount`.
        amount: Processor seconds of training, or optimiser steps; finite, above 0.
        price: What one untuned window's compute is worth, in nats; at least 0. For budgets in
            steps; budgets in compute pay for time by themselves.
    """

    kind: BudgetKind
    amount: float
    price: float = 0.01

    @classmethod
    def steps(cls, steps: float, price: float = 0.01) -> Budget:
        """A budget in optimiser steps."""
        return cls(BudgetKind.STEPS, float(steps), price)

    @classmethod
    def compute(cls, seconds: float) -> Budget:
        """A budget in processor seconds of training."""
        return cls(BudgetKind.COMPUTE, float(seconds))


@dataclass(frozen=True)
class JobSpec:
    """A training job as it introduces itself.

    Attributes:
        key: Names the run, also after a restart from a checkpoint; unique.
        name: For people.
        sites: From the model's input to its output.
        budget: How long it trains.
        seed: Of the run, 0 to 2**64 - 1.
        learning_rate: The highest of the schedule; 0 when unknown.
        policy: Who is to decide; empty: as the daemon is set.
        optimizer: As its library calls it, such as AdamW or SGD; empty when unknown.
        fresh: Nobody has trained the weights; false of a run that goes on.
        scale_fixed: A byte a head, or empty for none: 1 where policies leave the scale alone,
            because no weight of the model could take it up when it is baked.
    """

    key: str
    name: str
    sites: tuple[Site, ...]
    budget: Budget
    seed: int = 0
    learning_rate: float = 0.0
    policy: str = ""
    optimizer: str = ""
    fresh: bool = False
    scale_fixed: bytes = b""

    @property
    def heads(self) -> int:
        """Heads of all sites together."""
        return sum(site.heads for site in self.sites)


@dataclass(frozen=True)
class Setting:
    """What can be tuned, and its value: one entry for every head of the job.

    Attributes:
        scale: Factors on the logits, 1/16 to 16.
        gain: Factors on the outputs, 0 to 16.
        active: 1 for a head that is computed, 0 for one that is skipped; one byte each.
    """

    scale: Floats
    gain: Floats
    active: bytes

    @classmethod
    def neutral(cls, heads: int) -> Setting:
        """The model as its author built it."""
        return cls(floats([1.0]) * heads, floats([1.0]) * heads, b"\x01" * heads)

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing."""
        return self == Setting.neutral(len(self.active))


@dataclass(frozen=True)
class Observation:
    """What a trainer reports after a measured step; inactive heads carry zeros.

    Attributes:
        step: Optimiser steps done.
        compute_seconds: Processor seconds of training so far, without evaluation.
        loss: Mean training loss since the observation before, in nats.
        attention_share: Share of the step's time spent in attention, 0 to 1.
        action: Id of the last action applied, 0 before any.
        dropped: Observations dropped since the last one that was sent.
        active: One byte a head.
        metrics: [heads × 7], row-major, in the order of `METRICS`.
        profile: [heads × 16], row-major.
    """

    step: int = 0
    compute_seconds: float = 0.0
    loss: float = 0.0
    attention_share: float = 0.0
    action: int = 0
    dropped: int = 0
    active: bytes = b""
    metrics: Floats = field(default_factory=floats)
    profile: Floats = field(default_factory=floats)


def _name_fault(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not UTF-8; use UTF-8 text"
    if size == 0:
        return f"is empty; give it 1 to {MAX_NAME_BYTES} bytes"
    if size > MAX_NAME_BYTES:
        return f"has {size} bytes; use at most {MAX_NAME_BYTES}"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "has a control character; use printable text"
    return None


def describe_head(sites: Sequence[Site], head: int) -> str:
    """Head `head` of the job as a person finds it: "head 5 (site 'encoder.0', head 1)".

    Raises:
        IndexError: Where the sites have no such head.
    """
    first = 0
    for site in sites:
        if head < first + site.heads:
            return f"head {head} (site '{site.name}', head {head - first})"
        first += site.heads
    raise IndexError(f"head {head} is beyond the topology's {first} heads")


def sites_fault(sites: Sequence[Site]) -> str | None:
    """What makes the topology unusable, in one line for a person, or nothing."""
    if not sites:
        return "sites: there is none; name at least one attention site"
    if len(sites) > MAX_SITES:
        return f"sites: there are {len(sites)}; use at most {MAX_SITES}"
    names: set[str] = set()
    for number, site in enumerate(sites):
        fault = _name_fault(site.name)
        if fault:
            return f"name of site {number} {fault}"
        where = f"site '{site.name}': "
        if site.name in names:
            return where + "the name appears twice; make it unique"
        names.add(site.name)
        if not 1 <= site.heads <= MAX_HEADS_PER_SITE:
            return where + f"it has {site.heads} heads; use 1 to {MAX_HEADS_PER_SITE}"
        if site.head_width < 1:
            return where + "head width is 0; use at least 1"
        if site.context < 1:
            return where + "context is 0; use at least 1"
    heads = sum(site.heads for site in sites)
    if heads > MAX_HEADS:
        return f"sites: they have {heads} heads together; use at most {MAX_HEADS}"
    return None


def job_fault(job: JobSpec) -> str | None:
    """What makes the introduction unusable, in one line for a person, or nothing."""
    for what, name in (("key", job.key), ("name", job.name)):
        fault = _name_fault(name)
        if fault:
            return f"{what} {fault}"
    if job.policy and (fault := _name_fault(job.policy)):
        return f"policy {fault}"
    if job.optimizer and (fault := _name_fault(job.optimizer)):
        return f"optimizer {fault}"
    budget = job.budget
    if not (math.isfinite(budget.amount) and budget.amount > 0):
        return f"budget: the amount is {budget.amount}; use a finite one above 0"
    if not (math.isfinite(budget.price) and budget.price >= 0):
        return f"budget: the price is {budget.price}; use a finite one of at least 0"
    if not (math.isfinite(job.learning_rate) and job.learning_rate >= 0):
        return (
            f"learning rate: it is {job.learning_rate}; use a finite one of at least 0 (0: unknown)"
        )
    if not 0 <= job.seed < 2**64:
        return f"seed: it is {job.seed}; use 0 to 2**64 - 1"
    fault = sites_fault(job.sites)
    if not fault and job.scale_fixed and len(job.scale_fixed) != job.heads:
        return f"scale_fixed: there are {len(job.scale_fixed)} heads; give {job.heads}, or none"
    return fault


def setting_fault(setting: Setting, sites: Sequence[Site]) -> str | None:
    """What makes the setting unusable for the sites, in one line for a person, or nothing."""
    heads = sum(site.heads for site in sites)
    for what, values in (
        ("scale", setting.scale),
        ("gain", setting.gain),
        ("active", setting.active),
    ):
        if len(values) != heads:
            return f"{what}: there are {len(values)} entries; give {heads}, one for each head"
    for what, factors, least, most in (
        ("scale", setting.scale, MIN_SCALE, MAX_SCALE),
        ("gain", setting.gain, MIN_GAIN, MAX_GAIN),
    ):
        for head, value in enumerate(factors):
            if not least <= value <= most:  # so that NaN is out of bounds
                return f"{what}: {describe_head(sites, head)} has {value:g}; use {least} to {most}"
    first = 0
    for site in sites:
        active = setting.active[first : first + site.heads]
        if max(active) > 1:
            return f"active: site '{site.name}' has {max(active)}; use 0 or 1"
        if not any(active):
            return f"active: site '{site.name}' has no active head; keep at least one"
        first += site.heads
    return None


def observation_fault(observation: Observation, sites: Sequence[Site]) -> str | None:
    """What makes the observation unusable for the sites, in one line for a person, or nothing."""
    heads = sum(site.heads for site in sites)
    for what, size, per_head in (
        ("active", len(observation.active), 1),
        ("metrics", len(observation.metrics), len(METRICS)),
        ("profile", len(observation.profile), PROFILE_BINS),
    ):
        if size != heads * per_head:
            return (
                f"{what}: there are {size} values; "
                f"report {heads * per_head} ({heads} heads with {per_head} each)"
            )
    seconds = observation.compute_seconds
    if not (math.isfinite(seconds) and seconds >= 0):
        return f"compute_seconds is {seconds}; report at least 0"
    if not math.isfinite(observation.loss):
        return f"loss is {observation.loss}; report a finite value"
    if not _is_share(observation.attention_share):
        return f"attention_share is {observation.attention_share}; report a value in [0, 1]"
    first = 0
    for site in sites:
        if not any(observation.active[first : first + site.heads]):
            return f"active: site '{site.name}' has no active head; keep at least one"
        first += site.heads
    if _plausible(observation):
        return None
    for head in range(heads):
        fault = _head_fault(observation, head)
        if fault:
            return fault.format(head=describe_head(sites, head))
    return None


def _is_share(value: float) -> bool:
    return -_SHARE_TOLERANCE <= value <= 1 + _SHARE_TOLERANCE


def _plausible(observation: Observation) -> bool:
    """Whether no head is at fault, told from all of them together: a tenth of the time."""
    metrics, profile, active = observation.metrics, observation.profile, observation.active
    if 0 in active or not math.isfinite(sum(metrics)):
        return False
    for number in range(len(METRICS)):
        values = metrics[number :: len(METRICS)]
        if number in _SHARES and not (_is_share(min(values)) and _is_share(max(values))):
            return False
        if number in _NORMS and min(values) < 0:
            return False
    if not (_is_share(min(profile)) and _is_share(max(profile))):
        return False
    sums = map(sum, zip(*[iter(profile)] * PROFILE_BINS, strict=False))
    return all(abs(total - 1) <= _SUM_TOLERANCE for total in sums)


def _head_fault(observation: Observation, head: int) -> str | None:
    first = head * len(METRICS)
    metrics = observation.metrics[first : first + len(METRICS)]
    bins = observation.profile[head * PROFILE_BINS : (head + 1) * PROFILE_BINS]
    if not observation.active[head]:
        for name, value in zip(METRICS, metrics, strict=False):
            if value != 0:
                return f"metrics: {name} of inactive {{head}} is not 0; report zeros"
        if any(bins):
            return "profile: a bin of inactive {head} is not 0; report zeros"
        return None
    for number, value in enumerate(metrics):
        usable = _is_share(value) if number in _SHARES else math.isfinite(value)
        if not usable or (number in _NORMS and value < 0):
            return f"metrics: {METRICS[number]} of {{head}} is {value:g}; report a usable value"
    for number, value in enumerate(bins):
        if not _is_share(value):
            return f"profile: bin {number} of {{head}} is {value:g}; report a value in [0, 1]"
    if abs(sum(bins) - 1) > _SUM_TOLERANCE:
        return f"profile: the bins of {{head}} sum to {sum(bins):g}; report shares that sum to 1"
    return None
