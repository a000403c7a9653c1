"""The last requests, as the control socket tells them."""

import json
from datetime import UTC, datetime

import pytest

from agentproxy.protocol.fields import Claims
from agentproxy.protocol.unstructure import unstructured
from relay.control_call import MAX_ANSWER
from relay.requestlog import MAX_TOLD, Outcome, RequestEntry, RequestLog

MOST = 10_000  # that relay.yaml may name


def log_of(text: str) -> RequestLog:
    log = RequestLog(MOST)
    claims = Claims(commands=(text * 800,) * 3, job={"job": text * 100})  # nearly as much as claims may hold
    for number in range(MOST):
        log.add(RequestEntry(datetime.now(UTC), f"{number:032x}", Outcome.SIGNED, "", "", "", 1, claims=claims))
    return log


@pytest.mark.parametrize("text", ["a", '"', "ü", "\U0001f600"])
def test_what_is_told_is_never_more_than_whoever_asks_takes(text: str) -> None:
    told = log_of(text).last(MOST)
    plain = unstructured(told)
    assert MAX_TOLD // 4 < len(json.dumps(plain)) < MAX_ANSWER
    assert [entry.id for entry in told] == [f"{MOST - 1 - number:032x}" for number in range(len(told))]


def test_small_entries_are_all_told() -> None:
    log = RequestLog(100)
    for number in range(150):
        log.add(RequestEntry(datetime.now(UTC), f"{number:032x}", Outcome.SIGNED, "", "", "", 1))
    assert [len(log.last(count)) for count in (-1, 0, 1, 99, 1000, 1 << 64)] == [0, 0, 1, 99, 100, 100]


@pytest.mark.parametrize(
    ("package", "job", "fields"),
    [
        ("hello-0:1-1.noarch", {"project": "g/h", "job": "7"}, "package=hello-0:1-1.noarch job=project:g/h,job:7"),
        ("a uid=0 fallback=no", {"project": "a,job:7"}, "package='a uid=0 fallback=no' job=project:'a,job:7'"),
        ("a\u3000uid=0", {"job": "7 fallback=forced"}, r"package='a\u3000uid=0' job=job:'7 fallback=forced'"),
        ("'a' uid=0", {"job": '"'}, """package="'a' uid=0" job=job:'"'"""),
        ("", {}, "package=- job=-"),
    ],
)
def test_a_claim_in_the_log_is_one_field(
    package: str, job: dict[str, str], fields: str, caplog: pytest.LogCaptureFixture
) -> None:
    claims = Claims(package=package or None, job=job)
    with caplog.at_level("INFO"):
        RequestLog(1).add(RequestEntry(datetime.now(UTC), "0" * 32, Outcome.SIGNED, "", "", "", 1, claims=claims))
    assert caplog.messages[0].endswith(f" pid=None {fields} fallback=no")
