"""Makes a text of anybody's fit for the audit log."""

import re

__all__ = ["clean"]

# The same characters that `agentproxy.protocol.fields.check_text` refuses.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str, most: int) -> str:
    """At most so many characters, with a question mark for each control character."""
    return _CONTROL.sub("?", text[:most])
