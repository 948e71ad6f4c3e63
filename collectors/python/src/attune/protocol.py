"""The messages between trainers, the command line and the daemon, and their bytes.

`collectors/PROTOCOL.md` says in what order they go. A frame is one MessagePack array: version,
type, fields. Messages are frozen dataclasses; `encode` and `decode` are functions without state,
usable from any thread. The one table `_FIELDS` says what travels: fields and message types are
only ever added at the end.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from attune import wire
from attune.decisions import (
    SCALE_FACTORS,
    TOKEN_FEATURES,
    Action,
    ActionMask,
    CountChange,
)
from attune.values import (
    MAX_HEADS,
    MAX_NAME_BYTES,
    MAX_SITES,
    METRICS,
    PROFILE_BINS,
    Budget,
    BudgetKind,
    Floats,
    JobSpec,
    Observation,
    Outcome,
    Setting,
    Site,
    SiteKind,
)
from attune.wire import Field, FrameError

VERSION = 1
MAX_FRAME_BYTES = wire.MAX_FRAME_BYTES
MAX_LIVE_JOBS = 1024


class AckStatus(enum.IntEnum):
    """What became of an action."""

    APPLIED = 2
    REJECTED = 3
    EXPIRED = 4


class ErrorCode(enum.IntEnum):
    """What was wrong with a message."""

    MALFORMED = 0
    VERSION = 1
    OUT_OF_ORDER = 2
    CONTRADICTION = 3
    UNUSABLE = 4


class ProtocolError(ValueError):
    """Bytes that are no message of this protocol.

    Attributes:
        code: MALFORMED, or VERSION for a frame of another version.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Hello:
    """Trainer → daemon, first: who I am and what I look like."""

    job: JobSpec
    setting: Setting
    step: int = 0
    action: int = 0


@dataclass(frozen=True)
class Welcome:
    """Daemon → trainer, the answer to Hello.

    Attributes:
        job: Id in the store, for people.
        measure_every: Steps between measurements, at least 1.
        heartbeat_seconds: Say something at least this often.
    """

    job: int
    measure_every: int
    heartbeat_seconds: float


@dataclass(frozen=True)
class ActionRequest:
    """Daemon → trainer: please have this setting. It is complete.

    Attributes:
        id: Of the trial.
        expires_step: Not to be applied after this step.
        setting: One entry for every head of the job.
    """

    id: int
    expires_step: int
    setting: Setting


@dataclass(frozen=True)
class Acknowledgement:
    """The truth about an action: what became of it, at which step, and why."""

    status: AckStatus
    step: int
    why: str = ""


@dataclass(frozen=True)
class ActionReply:
    """Trainer → daemon: what became of an action."""

    id: int
    acknowledgement: Acknowledgement


@dataclass(frozen=True)
class Heartbeat:
    """Both ways: still here. `step` is the trainer's; 0 from the daemon."""

    step: int = 0


@dataclass(frozen=True)
class Bye:
    """Trainer → daemon, last: how it ended. `validation_loss` is in nats."""

    outcome: Outcome
    step: int
    compute_seconds: float
    validation_loss: float | None = None


@dataclass(frozen=True)
class Error:
    """Daemon → whoever sent something wrong: what, where, what to do."""

    code: ErrorCode
    text: str


@dataclass(frozen=True)
class StatusRequest:
    """Command line → daemon: what is going on?"""


@dataclass(frozen=True)
class LiveJob:
    """One job in a Status; `progress` is 0 to 1, `dropped` what the trainer could not send."""

    id: int = 0
    key: str = ""
    name: str = ""
    step: int = 0
    progress: float = 0.0
    loss: float = 0.0
    imbalance: float = 0.0
    active_heads: int = 0
    heads: int = 0
    window: int = 0
    trials: int = 0
    dropped: int = 0
    last_action: str = ""
    last_decider: str = ""


@dataclass(frozen=True)
class Status:
    """Daemon → command line: what goes on.

    `external` is the policy server that is asked, empty where none can be; `late_answers` were
    said to questions that were no longer open; `store_fault` is why the store cannot be written
    now, empty where it can.
    """

    version: str
    pid: int
    uptime_seconds: float
    state_directory: str
    policy: str
    policy_version: int
    errors: int
    jobs: tuple[LiveJob, ...] = field(default=())
    external: str = ""
    late_answers: int = 0
    store_fault: str = ""


@dataclass(frozen=True)
class Adjust:
    """Command line → daemon: change a live job by hand; only what is not None changes.

    `active_heads`: of a site; 0: all that it has.
    """

    job: int
    site: str = ""
    head: int | None = None
    scale: float | None = None
    gain: float | None = None
    active_heads: int | None = None


@dataclass(frozen=True)
class UsePolicy:
    """Command line → daemon: let this policy decide from now on.

    About `job` alone where it is given, else about all that asked for none.
    """

    name: str
    job: int | None = None


@dataclass(frozen=True)
class Reply:
    """Daemon → command line: what was done, or why not."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Serve:
    """Policy server → daemon, once a heartbeat: I decide for jobs whose policy is external."""

    name: str


@dataclass(frozen=True)
class Serving:
    """Daemon → policy server: say Serve at least once in `heartbeat_seconds`."""

    heartbeat_seconds: float


@dataclass(frozen=True)
class Question:
    """Daemon → policy server: a window of a job has closed, what is to be done?

    Attributes:
        id: Of the trial that the answer makes.
        deadline_seconds: Then the trial is decided by others.
        job: The job's id in the store.
        key: The job's key.
        window: Which one closed, from 0.
        step: Of the trainer, at its end.
        progress: Share of the budget that is used, 0 to 1.
        loss: Smoothed, at the window's end, in nats.
        imbalance: Of the window.
        sites: Of the job.
        setting: In force.
        tokens: [heads × features], row-major: `decisions.TOKEN_FEATURES`, and more to come.
        mask: What is open.
    """

    id: int
    deadline_seconds: float
    job: int
    key: str
    window: int
    step: int
    progress: float
    loss: float
    imbalance: float
    sites: tuple[Site, ...]
    setting: Setting
    tokens: Floats
    mask: ActionMask


@dataclass(frozen=True)
class Answer:
    """Policy server → daemon: what is to be done.

    Attributes:
        id: Of the question.
        action: The choices; an empty `Action()` declines, and those behind the server decide.
        log_probability: Of the action under the policy, at most 0; 0 where nothing was drawn.
        policy_version: Of what decided; 0 for rules.
        why: One line for a person; it stands in the trial.
    """

    id: int
    action: Action
    log_probability: float = 0.0
    policy_version: int = 0
    why: str = ""


Message = (
    Hello
    | Welcome
    | Observation
    | ActionRequest
    | ActionReply
    | Heartbeat
    | Bye
    | Error
    | StatusRequest
    | Status
    | Adjust
    | UsePolicy
    | Reply
    | Serve
    | Serving
    | Question
    | Answer
)

_SETTING = (
    Field("scale", wire.FloatArray(MAX_HEADS)),
    Field("gain", wire.FloatArray(MAX_HEADS)),
    Field("active", wire.Mask(MAX_HEADS)),
)


def _within(attribute: str, fields: Sequence[Field]) -> tuple[Field, ...]:
    """The fields of a value that is an attribute of the message."""
    return tuple(Field(f.name, f.kind, f"{attribute}.{f.path}") for f in fields)


_NAME = wire.Text(MAX_NAME_BYTES)
_SITE = wire.Record(
    Site,
    (
        Field("name", _NAME),
        Field("kind", wire.Enum(SiteKind)),
        Field("causal", wire.Flag()),
        Field("heads", wire.U32),
        Field("head_width", wire.U32),
        Field("context", wire.U32),
    ),
)
_LIVE_JOB = wire.Record(
    LiveJob,
    (
        Field("id", wire.U64),
        Field("key", _NAME),
        Field("name", _NAME),
        Field("step", wire.U64),
        Field("progress", wire.F64),
        Field("loss", wire.F64),
        Field("imbalance", wire.F64),
        Field("active_heads", wire.U32),
        Field("heads", wire.U32),
        Field("window", wire.U32),
        Field("trials", wire.U64),
        Field("dropped", wire.U64),
        Field("last_action", wire.Line()),
        Field("last_decider", wire.Line()),
    ),
)

# A message's place in this list is its type on the wire.
_FIELDS: tuple[wire.Record[Any], ...] = (
    wire.Record(
        Hello,
        (
            Field("key", _NAME, "job.key"),
            Field("name", _NAME, "job.name"),
            Field("sites", wire.List(_SITE, MAX_SITES), "job.sites"),
            Field("budget_kind", wire.Enum(BudgetKind), "job.budget.kind"),
            Field("budget_amount", wire.F64, "job.budget.amount"),
            Field("price", wire.F64, "job.budget.price"),
            Field("seed", wire.U64, "job.seed"),
            Field("learning_rate", wire.F64, "job.learning_rate"),
            *_within("setting", _SETTING),
            Field("step", wire.U64),
            Field("action", wire.U64),
            Field("policy", _NAME, "job.policy"),
            Field("optimizer", _NAME, "job.optimizer", later=True),
            Field("fresh", wire.Flag(), "job.fresh", later=True),
            Field("scale_fixed", wire.Mask(MAX_HEADS), "job.scale_fixed", later=True),
        ),
        {"job": JobSpec, "job.budget": Budget, "setting": Setting},
    ),
    wire.Record(
        Welcome,
        (
            Field("job", wire.U64),
            Field("measure_every", wire.U32),
            Field("heartbeat_seconds", wire.F64),
        ),
    ),
    wire.Record(
        Observation,
        (
            Field("step", wire.U64),
            Field("compute_seconds", wire.F64),
            Field("loss", wire.F64),
            Field("attention_share", wire.F32),
            Field("action", wire.U64),
            Field("dropped", wire.U32),
            Field("active", wire.Mask(MAX_HEADS)),
            Field("metrics", wire.FloatArray(MAX_HEADS * len(METRICS))),
            Field("profile", wire.FloatArray(MAX_HEADS * PROFILE_BINS)),
        ),
    ),
    wire.Record(
        ActionRequest,
        (
            Field("id", wire.U64),
            Field("expires_step", wire.U64),
            *_within("setting", _SETTING),
        ),
        {"setting": Setting},
    ),
    wire.Record(
        ActionReply,
        (
            Field("id", wire.U64),
            Field("status", wire.Enum(AckStatus), "acknowledgement.status"),
            Field("step", wire.U64, "acknowledgement.step"),
            Field("why", wire.Line(), "acknowledgement.why"),
        ),
        {"acknowledgement": Acknowledgement},
    ),
    wire.Record(Heartbeat, (Field("step", wire.U64),)),
    wire.Record(
        Bye,
        (
            Field("outcome", wire.Enum(Outcome, Outcome.FINISHED, Outcome.FAILED)),
            Field("step", wire.U64),
            Field("compute_seconds", wire.F64),
            Field("validation_loss", wire.Maybe(wire.F64)),
        ),
    ),
    wire.Record(Error, (Field("code", wire.Enum(ErrorCode)), Field("text", wire.Line()))),
    wire.Record(StatusRequest, ()),
    wire.Record(
        Status,
        (
            Field("version", wire.Line()),
            Field("pid", wire.U64),
            Field("uptime_seconds", wire.F64),
            Field("state_directory", wire.Line()),
            Field("policy", wire.Line()),
            Field("policy_version", wire.U64),
            Field("errors", wire.U64),
            Field("jobs", wire.List(_LIVE_JOB, MAX_LIVE_JOBS)),
            Field("external", wire.Line()),
            Field("late_answers", wire.U64),
            Field("store_fault", wire.Line(), later=True),
        ),
    ),
    wire.Record(
        Adjust,
        (
            Field("job", wire.U64),
            Field("site", _NAME),
            Field("head", wire.Maybe(wire.U32)),
            Field("scale", wire.Maybe(wire.F32)),
            Field("gain", wire.Maybe(wire.F32)),
            Field("active_heads", wire.Maybe(wire.U32)),
        ),
    ),
    wire.Record(UsePolicy, (Field("name", _NAME), Field("job", wire.Maybe(wire.U64), later=True))),
    wire.Record(Reply, (Field("ok", wire.Flag()), Field("text", wire.Line()))),
    wire.Record(Serve, (Field("name", _NAME),)),
    wire.Record(Serving, (Field("heartbeat_seconds", wire.F64),)),
    wire.Record(
        Question,
        (
            Field("id", wire.U64),
            Field("deadline_seconds", wire.F64),
            Field("job", wire.U64),
            Field("key", _NAME),
            Field("window", wire.U32),
            Field("step", wire.U64),
            Field("progress", wire.F64),
            Field("loss", wire.F64),
            Field("imbalance", wire.F64),
            Field("sites", wire.List(_SITE, MAX_SITES)),
            *_within("setting", _SETTING),
            Field("tokens", wire.FloatArray(MAX_HEADS * len(TOKEN_FEATURES))),
            Field("scale_open", wire.Mask(MAX_HEADS, len(SCALE_FACTORS)), "mask.scale"),
            Field("count_open", wire.Mask(MAX_SITES, len(CountChange)), "mask.count"),
        ),
        {"setting": Setting, "mask": ActionMask},
    ),
    wire.Record(
        Answer,
        (
            Field("id", wire.U64),
            Field("scale", wire.Choices(MAX_HEADS, len(SCALE_FACTORS)), "action.scale"),
            Field("count", wire.Choices(MAX_SITES, len(CountChange)), "action.count"),
            Field("score", wire.FloatArray(MAX_HEADS), "action.score"),
            Field("log_probability", wire.F32),
            Field("policy_version", wire.U64),
            Field("why", wire.Line()),
        ),
        {"action": Action},
    ),
)
_TYPES = {record.cls: number for number, record in enumerate(_FIELDS)}


def encode(message: Message) -> bytes:
    """The message's frame.

    Raises:
        ValueError: For what the protocol does not allow: text, lists and arrays beyond their
            limits (lines for people are cut instead), numbers out of range, a mask with other
            values than 0 and 1.
    """
    number = _TYPES[type(message)]
    fields = _FIELDS[number].pack(message, type(message).__name__)
    frame = wire.pack_array_header(len(fields) + 2) + bytes((VERSION, number)) + b"".join(fields)
    if len(frame) > MAX_FRAME_BYTES:
        raise ValueError(
            f"{type(message).__name__}: {len(frame)} bytes; a frame may have {MAX_FRAME_BYTES}"
        )
    return frame


def decode(frame: bytes) -> Message:
    """The message in a frame; fields behind the last that is known are ignored.

    Raises:
        ProtocolError: For anything that is no message of this version, naming message and field.
    """
    try:
        values = wire.unpack(frame)
    except FrameError as error:
        raise ProtocolError(ErrorCode.MALFORMED, str(error)) from None
    if len(values) < 2 or not all(wire.is_unsigned(value) for value in values[:2]):
        raise ProtocolError(
            ErrorCode.MALFORMED,
            f"frame of {len(frame)} bytes: does not begin with the numbers of a version and a "
            "message type",
        )
    if values[0] != VERSION:
        raise ProtocolError(
            ErrorCode.VERSION,
            f"frame of protocol version {values[0]}; this side speaks version {VERSION}: "
            "install the same version of attune on both sides",
        )
    if values[1] >= len(_FIELDS):
        raise ProtocolError(
            ErrorCode.MALFORMED,
            f"frame of message type {values[1]}, which version {VERSION} does not have",
        )
    record = _FIELDS[values[1]]
    try:
        message: Message = record.unpack(values[2:])
    except FrameError as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"{record.cls.__name__}: {error}") from None
    return message
