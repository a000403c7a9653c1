"""What is said when standard output takes no more."""

import errno
import sys

import pytest

from agentproxy.runtime.output import give_up_output


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.ENOSPC, "No space left")])
def test_an_error_is_not_of_an_output_that_a_daemon_was_started_without(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match=str(error.strerror)):
        give_up_output(error)
