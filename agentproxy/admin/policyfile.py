"""Adds entries to policy.yaml and leaves the rest of the file, comments and all, as people wrote it.

The file is changed as text and then read again: unless the new one says what the old one said and the new entry, and
nothing else, the change is given up and the lines are shown for somebody to put in by hand.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from agentproxy.admin.changing import changing
from agentproxy.oracle.policy import DEFAULT_HASH_ALGORITHMS, KeyRule, Policy, RunnerRule
from agentproxy.protocol.digests import HashAlgorithm
from agentproxy.protocol.errors import ConfigError
from agentproxy.protocol.keys import Fingerprint
from agentproxy.protocol.values import frozen
from agentproxy.runtime.config import load, parse
from agentproxy.runtime.files import write_atomically

__all__ = ["Addition", "add", "key_addition", "runner_addition"]


@frozen
class Addition:
    """An entry for one section of the policy."""

    section: str  # keys or runners
    name: str
    lines: tuple[str, ...]  # of the entry's value, without indentation
    rule: KeyRule | RunnerRule

    def text(self, indent: int = 2) -> str:
        """The entry as it stands in its section, with a newline at the end."""
        pad = " " * indent
        return "".join(
            f"{line}\n" for line in (f"{pad}{_word(self.name)}:", *(f"{pad}  {line}" for line in self.lines))
        )

    def by_hand(self) -> str:
        """What somebody puts into the file."""
        return f"{self.section}:\n{self.text()}"


def key_addition(
    name: str,
    fingerprint: Fingerprint,
    key_type: str,
    hash_algorithms: tuple[HashAlgorithm, ...] = DEFAULT_HASH_ALGORITHMS,
) -> Addition:
    """The policy's entry for an imported key, for any distribution."""
    lines = [f'fingerprint: "{fingerprint}"', f'type: "{key_type}"']
    if hash_algorithms != DEFAULT_HASH_ALGORITHMS:
        lines.append(f"hash_algorithms: [{', '.join(each.name.lower() for each in hash_algorithms)}]")
    return Addition("keys", name, tuple(lines), KeyRule(fingerprint, key_type, hash_algorithms=hash_algorithms))


def runner_addition(name: str, keys: Sequence[str]) -> Addition:
    """The policy's entry for a runner that may use these keys."""
    return Addition("runners", name, (f"keys: [{', '.join(map(_word, keys))}]",), RunnerRule(tuple(keys)))


def add(path: Path, addition: Addition) -> bool:
    """Put an entry into the policy file; False when it is there already, just so.

    Raises:
        ConfigError: the file is wrong, has another entry of this name, or cannot be changed by us.
    """
    if _is_there(path, load(path, Policy), addition):
        return False  # where a policy is read-only, its lock cannot be made either
    with changing(path):
        before = load(path, Policy)  # again: another command may have changed it before we had the lock
        if _is_there(path, before, addition):
            return False
        old = path.read_bytes().decode()
        line_end = "\r\n" if old.count("\r\n") == old.count("\n") > 0 else "\n"
        new = _inserted(old.replace(line_end, "\n"), addition)
        if new is None or not _says(new, before, addition):
            hint = f"add these lines by hand:\n{addition.by_hand()}"
            raise ConfigError(f"{path}: the section {addition.section} has a form that is not changed here", hint)
        _replace(path, new.replace("\n", line_end))
    return True


def _is_there(path: Path, policy: Policy, addition: Addition) -> bool:
    present = _section(policy, addition).get(addition.name)
    if present is not None and present != addition.rule:
        hint = f"change it by hand; this was to be added:\n{addition.by_hand()}"
        raise ConfigError(f"{path}: {addition.section}.{addition.name} is there already, and says something else", hint)
    return present is not None


def _word(name: str) -> str:
    """A name as YAML: in quotes when it would be read as a number or a boolean."""
    return name if yaml.safe_load(name) == name else f'"{name}"'


def _section(policy: Policy, addition: Addition) -> dict[str, KeyRule | RunnerRule]:
    return {**policy.keys} if addition.section == "keys" else {**policy.runners}


def _says(text: str, before: Policy, addition: Addition) -> bool:
    wanted = {**_section(before, addition), addition.name: addition.rule}
    try:
        found = parse(text, Policy, "policy")
    except ConfigError:
        return False
    rest = replace(before, keys=found.keys) if addition.section == "keys" else replace(before, runners=found.runners)
    return _section(found, addition) == wanted and found == rest


def _inserted(text: str, addition: Addition) -> str | None:
    """The file with the entry at the end of its section; None for a form that we do not know."""
    text = text if text.endswith("\n") or not text else f"{text}\n"
    root = yaml.compose(text, yaml.SafeLoader)
    if root is None:
        return f"{text}{addition.by_hand()}"
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return None
    for key, value in root.value:
        if key.value == addition.section:
            return _inserted_into(text, value, addition)
    return f"{text}\n{addition.by_hand()}"


def _inserted_into(text: str, section: yaml.Node, addition: Addition) -> str | None:
    start, end = section.start_mark.index, section.end_mark.index
    if not section.value:  # `{}`, or nothing
        return f"{text[:start].rstrip(' ')}\n{addition.text()}{text[end:].lstrip(' ').removeprefix(chr(10))}"
    if not isinstance(section, yaml.MappingNode) or section.flow_style:
        return None
    line_end = text.index("\n", _last(section).end_mark.index) + 1
    return text[:line_end] + addition.text(section.value[0][0].start_mark.column) + text[line_end:]


def _last(node: yaml.Node) -> yaml.Node:
    """The last node that has an end of its own: a block's end lies after the comments that follow it."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return node
    last = node.value[-1]
    return _last(last[1] if isinstance(last, tuple) else last)


def _replace(path: Path, text: str) -> None:
    status = path.stat()
    try:
        write_atomically(path.resolve(), text.encode(), status.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(path, status.st_uid, status.st_gid)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
