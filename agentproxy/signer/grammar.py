r"""A record's line as a regular expression: several times as fast as parsing the line and writing it again.

It accepts what `AuditRecord.line` writes and nothing with a doubled, unknown or misplaced member, with a blank or in
another spelling. Repetitions are possessive: no line, however made, takes more than linear time.
"""

import re

__all__ = ["is_canonical"]

# Texts hold no control characters (`fields.check_text`), so only these two are escaped by a letter of their own.
# Half of a surrogate pair is no character: whoever reads such a text cannot write it anywhere.
_ESCAPED = r'["\\]|u(?!00[0-7]|d[89a-f])[0-9a-f]{4}|ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}'
_STRING = rf'"[ !#-\[\]-~]*+(?:\\(?:{_ESCAPED})[ !#-\[\]-~]*+)*+"'
_NUMBER = r"(?:0|-?[1-9][0-9]{0,18})"  # of 63 bits; Python's `json` raises its own error for thousands of digits
_COUNT = r"[1-9][0-9]{0,17}"
_TIME = r'"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"'
_SHA256 = r'"[0-9a-f]{64}"'
_LIST = rf"\[{_STRING}(?:,{_STRING})*+\]"
_TEXTS = rf"\{{(?:{_STRING}:{_STRING}(?:,{_STRING}:{_STRING})*+)?\}}"


def _or_null(value: str) -> str:
    return rf"(?:null|{value})"


def _members(**values: str) -> str:
    return ",".join(f'"{name}":{value}' for name, value in values.items())


def _present(**values: str) -> str:
    """Members in this order, each of which may be missing."""
    return "".join(rf'(?:"{name}":{value}(?:,(?=")|(?=\}})))?' for name, value in values.items())


_CLAIMS = _present(
    uid=_NUMBER,
    user=_STRING,
    pid=_NUMBER,
    commands=_LIST,
    file=_STRING,
    package=_STRING,
    job=_TEXTS,
    distributions=_LIST,
)
_ASSERTED = _members(
    runner=_or_null(_STRING),
    token=_or_null(_STRING),
    certificate=_or_null(_STRING),
    address=_or_null(_STRING),
    channel=_STRING,
    distribution=_or_null(_STRING),
    claims=_or_null(rf"\{{{_CLAIMS}\}}"),
)
_RECORD = _members(
    sequence=_COUNT,
    time=_TIME,
    node=_STRING,
    request=_or_null('"[0-9a-f]{32}"'),
    operation=_STRING,
    key=_or_null(_STRING),
    fingerprint=_or_null('"[0-9A-F]{40}(?:[0-9A-F]{24})?"'),
    keygrip=_or_null('"[0-9A-F]{40}"'),
    hash_algorithm=_or_null("[0-9]{1,3}"),
    digest=_or_null('"(?:[0-9a-f]{2})++"'),
    outcome='"(?:signed|refused|failed|done)"',
    reason=_STRING,
    signature_sha256=_or_null(_SHA256),
    duration_us=_or_null(_NUMBER),
    asserted=rf"\{{{_ASSERTED}\}}",
    details=_TEXTS,
    prev=_SHA256,
)
_LINE = re.compile(rf"\{{{_RECORD}\}}".encode("ascii"))


def is_canonical(line: bytes) -> bool:
    """Whether a line, without its newline, has the form of a record."""
    return _LINE.fullmatch(line) is not None
