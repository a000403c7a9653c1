"""How the relay of a state directory is started here."""

from pathlib import Path

__all__ = ["SOCKETS", "STATE", "UNIT", "how_to_start"]

STATE = Path("/var/lib/blind-oracle-relay")  # of the system's relay
UNIT = Path("/usr/lib/systemd/system/blind-oracle-relay.socket")  # as our packages bring it
SOCKETS = ("blind-oracle-relay.socket", "blind-oracle-relay-control.socket")


def how_to_start(state: Path) -> str:
    """The command for it.

    Where our packages are, `serve` by root's hands would find the service's directories and refuse them: what its hint
    says then would take them from the service.
    """
    if state == STATE and UNIT.exists():
        return f"systemctl start {' '.join(SOCKETS)}"
    return "blind-oracle-relay serve"
