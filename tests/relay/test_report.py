"""What `status` tells an operator about several oracles."""

from datetime import UTC, datetime

from relay.connectionstate import ConnectionState, OracleState, Standing
from relay.report import status_lines
from relay.requestlog import Outcome, RequestEntry
from relay.status import StatusReport

THEN = datetime(2026, 11, 26, 10, 0, 0, tzinfo=UTC)
A, B = "oracle-a.example.org:7443", "oracle-b.example.org:7443"


def report(*oracles: OracleState, moved: int = 0, nodes: tuple[str, ...] = ()) -> str:
    entry = RequestEntry(THEN, "ab" * 16, Outcome.SIGNED, "", "", "", 12, "modern", nodes=nodes)
    return "\n".join(
        status_lines(
            StatusReport(
                "b1",
                "test",
                1,
                THEN,
                ConnectionState(connected=True, address=B, since=THEN, node="node-b"),
                (),
                0,
                0,
                {"signed": 7},
                moved,
                oracles,
                last=(entry,),
            )
        )
    )


def test_each_oracle_is_a_line_with_what_is_wrong_and_since_when() -> None:
    text = report(
        OracleState(A, Standing.AWAY, THEN, "node-a", "Connection refused"),
        OracleState(B, Standing.BEST, THEN, "node-b"),
    )
    assert f"oracle {A} (node-a) away since 2026-11-26 10:00:00: Connection refused" in text
    assert f"oracle {B} (node-b) best since 2026-11-26 10:00:00\n" in text


def test_requests_that_were_tried_again_are_counted_and_named() -> None:
    text = report(moved=3, nodes=("node-a", "node-b"))
    assert "requests: 7 signed, 3 tried again with another oracle" in text
    assert "sent to node-a, then node-b" in text


def test_one_oracle_is_told_by_the_first_line_alone() -> None:
    assert "oracle oracle-b" not in report(OracleState(B, Standing.BEST, THEN, "node-b"))
