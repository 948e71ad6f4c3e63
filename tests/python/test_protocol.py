"""The codec against the golden bytes that C++ decodes too, and against frames made to harm."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from attune.decisions import Action, ActionMask
from attune.protocol import (
    MAX_LIVE_JOBS,
    Acknowledgement,
    AckStatus,
    ActionReply,
    ActionRequest,
    Adjust,
    Answer,
    Bye,
    Error,
    ErrorCode,
    Heartbeat,
    Hello,
    LiveJob,
    ProtocolError,
    Question,
    Reply,
    Serve,
    Serving,
    Status,
    StatusRequest,
    UsePolicy,
    Welcome,
    decode,
    encode,
)
from attune.values import (
    MAX_HEADS,
    MAX_NAME_BYTES,
    MAX_SITES,
    Budget,
    JobSpec,
    Observation,
    Outcome,
    Setting,
    Site,
    SiteKind,
    floats,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "collectors" / "golden"
MAX_LINE_BYTES = 4096

JOB = JobSpec(
    key="run-7",
    name="tiny translator",
    sites=(
        Site("decoder.0.self", SiteKind.SELF, True, 2, 16, 128),
        Site("decoder.0.cross", SiteKind.CROSS, False, 1, 32, 300),
    ),
    budget=Budget.steps(20_000, price=0.0625),
    seed=42,
    learning_rate=0.00048828125,
    policy="kmeans",
    optimizer="AdamW",
    fresh=True,
    scale_fixed=b"\0\1\1",
)
SETTING = Setting(floats([1.0, 1.5, 0.25]), floats([1.0, 0.5, 2.0]), b"\x01\x00\x01")
OBSERVATION = Observation(
    step=4096,
    compute_seconds=12.5,
    loss=2.75,
    attention_share=0.375,
    action=11,
    dropped=3,
    active=b"\x01\x00\x01",
    metrics=floats([i / 8 for i in range(7)] + [0.0] * 7 + [1 - i / 8 for i in range(7)]),
    profile=floats([1 / 16] * 16 + [0.0] * 16 + [1.0] + [0.0] * 15),
)
MESSAGES = {
    "hello": Hello(JOB, SETTING, 4000, 11),
    "welcome": Welcome(5, 8, 2.5),
    "observation": OBSERVATION,
    "action_request": ActionRequest(12, 4500, SETTING),
    "action_reply": ActionReply(12, Acknowledgement(AckStatus.REJECTED, 4104, "gain 2 is above 1")),
    "heartbeat": Heartbeat(4104),
    "bye": Bye(Outcome.FINISHED, 20_000, 61.25, 2.125),
    "error": Error(ErrorCode.OUT_OF_ORDER, "Observation before Hello: send Hello first"),
    "status_request": StatusRequest(),
    "status": Status(
        "0.1.0",
        4711,
        3600.5,
        "/var/lib/attune",
        "network",
        9,
        2,
        (
            LiveJob(
                5,
                "run-7",
                "tiny translator",
                4104,
                0.205,
                2.75,
                -0.125,
                2,
                3,
                6,
                7,
                3,
                "decoder.0.self: scale of head 0 x1.15",
                "network",
            ),
        ),
        "bandit",
        4,
        "disk is full",
    ),
    "adjust": Adjust(5, "decoder.0.self", 1, 1.5, None, None),
    "use_policy": UsePolicy("kmeans", 5),
    "reply": Reply(True, "policy is kmeans now"),
    "serve": Serve("bandit"),
    "serving": Serving(2.5),
    "question": Question(
        id=13,
        deadline_seconds=2.5,
        job=5,
        key="run-7",
        window=6,
        step=4096,
        progress=0.25,
        loss=2.75,
        imbalance=-0.125,
        sites=JOB.sites,
        setting=SETTING,
        tokens=floats([i / 32 for i in range(29)] + [0] * 29 + [1 - i / 32 for i in range(29)]),
        mask=ActionMask(
            bytes([1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1]),
            bytes([0, 0, 1, 0, 1, 0, 0, 1, 0, 0]),
        ),
    ),
    "answer": Answer(
        13,
        Action(bytes([3, 2, 2]), bytes([2, 4]), floats([0.5, -1, 0])),
        -0.75,
        3,
        "the second head adds nothing",
    ),
}


def golden(name):
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def refusal(frame):
    with pytest.raises(ProtocolError) as caught:
        decode(frame)
    return caught.value


def frame_of(kind, fields, body=b""):
    return bytes((0x90 + fields + 2, 1, kind)) + body


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_encoding_gives_exactly_the_golden_bytes(name):
    assert encode(MESSAGES[name]).hex(" ") == golden(name).hex(" ")


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_golden_bytes_decode_to_the_message_that_was_encoded(name):
    assert decode(golden(name)) == MESSAGES[name]


def test_a_hello_from_before_it_had_an_optimiser_is_read_and_says_none():
    frame = golden("hello")
    frame = frame[:2] + b"\x10" + frame[3 : -len("AdamW") - 7]
    hello = decode(frame)
    assert hello.job == replace(JOB, optimizer="", fresh=False, scale_fixed=b"")


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_frame_cut_anywhere_is_refused_as_malformed(name):
    frame = golden(name)
    for length in range(len(frame)):
        assert refusal(frame[:length]).code == ErrorCode.MALFORMED


@pytest.mark.parametrize("name", ["hello", "welcome", "action_request", "status", "bye", "adjust"])
def test_a_frame_with_any_one_byte_changed_decodes_or_is_refused(name):
    frame = golden(name)
    decoded = refused = 0
    for place in range(len(frame)):
        for value in range(0, 256, 5):
            changed = frame[:place] + bytes((value,)) + frame[place + 1 :]
            try:
                again = encode(decode(changed))
            except ProtocolError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                assert encode(decode(again)) == again
                decoded += 1
    assert decoded
    assert refused


def test_the_worked_example_of_the_protocol_shows_the_golden_bytes():
    text = (ROOT / "collectors" / "PROTOCOL.md").read_text()
    shown = re.findall(r"```hex (\w+)\n(.*?)```", text, re.DOTALL)
    assert len(shown) >= 5
    for name, block in shown:
        digits = " ".join(line.partition(";")[0] for line in block.splitlines())
        assert bytes.fromhex(digits) == golden(name)


def test_fields_behind_the_last_are_ignored_and_bytes_behind_a_message_refused():
    assert decode(frame_of(5, 3, b"\x07\xc0\xa1x")) == Heartbeat(7)
    error = refusal(encode(Heartbeat(7)) + b"\0")
    assert str(error) == "frame of 5 bytes: the message ends at byte 4"


def test_another_version_is_told_from_malformed_bytes():
    error = refusal(b"\x93\x09\x05\x07")
    assert error.code == ErrorCode.VERSION
    assert "version 9" in str(error)
    assert "version 1" in str(error)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (frame_of(5, 0), "Heartbeat: field 'step' is missing"),
        (
            frame_of(5, 1, b"\xff"),
            "Heartbeat: field 'step' is a negative integer, not an integer from 0",
        ),
        (frame_of(12, 2, b"\x01\xa0"), "Reply: field 'ok' is an integer, not a boolean"),
        (frame_of(7, 2, b"\x05\xa0"), "Error: field 'code' is 5, outside 0 to 4"),
        (frame_of(99, 0), "frame of message type 99, which version 1 does not have"),
        (b"", "frame of 0 bytes: empty"),
        (b"\x07", "frame of 1 bytes: an integer, not an array"),
        (
            frame_of(1, 3, b"\x05\xcf\x00\x00\x00\x01\x00\x00\x00\x00\x02"),
            "Welcome: field 'measure_every' is 4294967296, outside 0 to 4294967295",
        ),
        (
            frame_of(10, 6, b"\x05\xa0\xc0\xcb\x7f\xe0\x00\x00\x00\x00\x00\x00\xc0\xc0"),
            "Adjust: field 'scale' is beyond the range of float32",
        ),
        (
            frame_of(11, 1, b"\xd9\xc9" + b"x" * 201),
            "UsePolicy: field 'name' has 201 bytes, more than 200",
        ),
        (
            frame_of(3, 5, b"\x01\x02\xc4\x03abc\xc4\x00\xc4\x00"),
            "ActionRequest: field 'scale' is 3 bytes, which is no whole number of float32",
        ),
        (
            frame_of(3, 5, b"\x01\x02\xc4\x00\xc4\x00\xc4\x01\x02"),
            "ActionRequest: field 'active' holds 2 at place 0 where only 0 and 1 may stand",
        ),
    ],
)
def test_refusals_name_the_message_and_the_field(frame, words):
    assert str(refusal(frame)) == words


def test_a_refusal_inside_a_list_names_the_element():
    frame = bytearray(golden("hello"))
    frame[frame.index(b"decoder.0.cross") + 15] = 0xC0
    words = "Hello: field 'sites[1].kind' is nil, not an integer from 0"
    assert str(refusal(bytes(frame))) == words


@pytest.mark.parametrize(
    ("number", "seconds"),
    [(b"\xcb\x40\x04\0\0\0\0\0\0", 2.5), (b"\xca\x40\x20\0\0", 2.5), (b"\x02", 2.0)],
)
def test_a_number_may_come_in_any_form_that_fits(number, seconds):
    assert decode(frame_of(1, 3, b"\x05\x08" + number)).heartbeat_seconds == seconds


def test_a_number_that_is_none_travels():
    assert math.isnan(decode(encode(Bye(Outcome.FAILED, 1, math.nan))).compute_seconds)


def test_text_that_is_no_utf_8_comes_through_as_it_is():
    frame = frame_of(11, 2, b"\xa3a\xffb\xc0")
    assert encode(decode(frame)) == frame


def test_lengths_at_their_limits_travel_and_beyond_them_are_refused():
    assert decode(encode(UsePolicy("x" * MAX_NAME_BYTES))).name == "x" * MAX_NAME_BYTES
    assert decode(frame_of(11, 1) + b"\xa6kmeans") == UsePolicy("kmeans")  # it named no job then
    with pytest.raises(ValueError, match="201 bytes"):
        encode(UsePolicy("x" * (MAX_NAME_BYTES + 1)))

    request = ActionRequest(1, 2, Setting.neutral(MAX_HEADS))
    assert decode(encode(request)) == request
    with pytest.raises(ValueError, match="65537 floats"):
        encode(ActionRequest(1, 2, Setting.neutral(MAX_HEADS + 1)))

    sites = tuple(Site(f"s{i}") for i in range(MAX_SITES))
    hello = Hello(replace(JOB, sites=sites), SETTING)
    assert decode(encode(hello)) == hello
    with pytest.raises(ValueError, match="4097 elements"):
        encode(Hello(replace(JOB, sites=(*sites, Site("one more"))), SETTING))

    status = replace(MESSAGES["status"], jobs=(LiveJob(),) * MAX_LIVE_JOBS)
    assert decode(encode(status)) == status


@pytest.mark.parametrize(
    "message",
    [
        ActionReply(1, Acknowledgement(0, 0)),
        Bye(Outcome.RUNNING, 0, 0.0),
        ActionRequest(1, 2, Setting(floats([1]), floats([1]), b"\x02")),
        Welcome(1, 2**32, 1.0),
        Heartbeat(-1),
        Adjust(1, scale=1e39),
    ],
)
def test_what_a_frame_may_not_say_cannot_be_encoded(message):
    with pytest.raises(ValueError, match="field"):
        encode(message)


def test_long_lines_for_people_are_cut_but_never_inside_a_character():
    text = "x" * (MAX_LINE_BYTES - 1)
    assert decode(encode(Reply(True, text + "yz"))).text == text + "y"
    assert decode(encode(Reply(True, text + "ü"))).text == text


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"\xdd\xff\xff\xff\xff", "claims 4294967295 elements"),
        (b"\x91" * 1_000_000, "nest deeper than 8"),
        (b"\xdd\x00\x0f\x42\x40" + b"\xc0" * 1_000_000, "claims 1000000 elements"),
        (frame_of(11, 1, b"\xdb\xff\xff\xff\xff"), "ends inside a value"),
        (frame_of(11, 1, b"\xc6\xff\xff\xff\xff"), "ends inside a value"),
        (frame_of(5, 1, b"\x81\x01\x02"), "a map"),
        (frame_of(5, 1, b"\xd4\x01\x02"), "an extension"),
        (frame_of(5, 1, b"\xc1"), "the byte at 3"),
        (b"\xc0" * (16 * 1024 * 1024 + 1), "larger than 16777216"),
    ],
)
def test_hostile_frames_are_refused_before_memory_is_spent(frame, words):
    assert words in str(refusal(frame))


def test_choices_and_masks_that_there_are_not_are_refused_both_ways():
    choices = b"\x05\xc4\x02\x04\x05" + b"\xc0" * 5
    assert str(refusal(frame_of(16, 7, choices))) == (
        "Answer: field 'scale' holds 5 at place 1 where 0 to 4 may stand"
    )
    uneven = replace(MESSAGES["question"], mask=ActionMask(b"", b"\x01"))
    assert str(refusal(encode(uneven))) == (
        "Question: field 'count_open' is 1 bytes, which is no whole number of 5"
    )
    with pytest.raises(ValueError, match="none of the 5"):
        encode(Answer(1, Action(b"\x05", b"\x02", floats([0]))))
