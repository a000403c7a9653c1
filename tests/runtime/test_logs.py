import os
import re
import subprocess
import sys

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (\w+) test: (.*)")


def logged(statements: str, environment: dict[str, str] | None = None) -> list[str]:
    script = (
        f"import logging\nfrom agentproxy.runtime.logs import configure\nlog = logging.getLogger('test')\n{statements}"
    )
    kept = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_a_record_is_one_line_with_time_level_and_place() -> None:
    [line] = logged("configure()\nlog.info('signed, caller=%s', 'b1')\nlog.debug('not shown')")
    matched = LINE.fullmatch(line)
    assert matched is not None
    assert matched.groups() == ("info", "signed, caller=b1")


def test_a_peer_cannot_forge_a_line_or_colour_a_terminal() -> None:
    [line] = logged(r"configure(); log.info('x=%s', 'a\r\nb\x1b[31mc\x9bd\u202ee\u2028f\ud800')")
    assert line.endswith(r"x=a\x0d\nb\x1b[31mc\x9bd\u202ee\u2028f\ud800")


def test_a_traceback_stays_in_its_line() -> None:
    [line] = logged("configure()\ntry:\n    1/0\nexcept ZeroDivisionError:\n    log.exception('bad')")
    assert line.endswith("ZeroDivisionError: division by zero")


def test_the_journal_gets_the_severity_and_no_second_time() -> None:
    lines = logged("configure('DEBUG')\nlog.error('a')\nlog.warning('b')\nlog.debug('c')", {"JOURNAL_STREAM": "8:1"})
    assert lines == ["<3>test: a", "<4>test: b", "<7>test: c"]


def test_who_has_no_standard_error_goes_on_without_a_log() -> None:
    script = (
        "import logging\nfrom agentproxy.runtime.logs import configure\nlog = logging.getLogger('test')\n"
        "configure()\nlog.info('a')\nprint('goes on')"
    )
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", script]
    assert subprocess.run(closed, stdout=subprocess.PIPE, check=False, timeout=20).stdout == b"goes on\n"


def test_a_second_configuration_replaces_the_first() -> None:
    assert len(logged("configure()\nconfigure('WARNING')\nlog.info('a')\nlog.warning('b')")) == 1
