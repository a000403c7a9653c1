"""A far side that does what it likes: a real ssh to a real sshd, whose forced command is hostile."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agentproxy.protocol.addresses import SshAddress
from relay.sshdial import SshStream, open_ssh
from tests.end_to_end.place import until
from tests.ssh.sshd import SECONDS, Sshd, sshd_in

_MOST_OF_A_FLOOD = 4 << 20  # bytes: what ssh takes before it waits for its reader, and some


@pytest.fixture(name="sshd")
def running_sshd(tmp_path: Path) -> Iterator[Sshd]:
    with sshd_in(tmp_path / "sshd") as made:
        yield made


async def stream_to(sshd: Sshd, command: str) -> SshStream:
    key = (sshd.directory / "client.pub").read_text()
    sshd.authorized.write_text(f'command="{command}" {key}')
    return await open_ssh(SshAddress.parse(sshd.address), sshd.client_config)


async def test_a_far_side_that_complains_without_end_fills_nothing_here(sshd: Sshd, tmp_path: Path) -> None:
    told = tmp_path / "told"
    # dd tells how much it got rid of when it is interrupted, or after 25 times as much as it should.
    flood = f"timeout -s INT 2 dd if=/dev/zero bs=4096 count=25600 >&2 2>{told}"
    with trio.fail_after(SECONDS):
        stream = await stream_to(sshd, flood)
        await trio.to_thread.run_sync(until, lambda: told.exists() and "copied" in told.read_text(), "dd tells")
        await stream.aclose()
    (copied,) = (line for line in told.read_text().splitlines() if "copied" in line)
    assert int(copied.split()[0]) < _MOST_OF_A_FLOOD


async def test_the_last_words_of_the_far_side_have_no_control_characters(sshd: Sshd) -> None:
    with trio.fail_after(SECONDS):
        stream = await stream_to(sshd, r"printf 'first\nnot \033[31mhere\007\n' >&2")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        await stream.aclose()
    assert str(caught.value) == "ssh: not ?[31mhere?"
