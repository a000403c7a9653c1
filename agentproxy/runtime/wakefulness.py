"""Keeps a virtual machine's processors from going to sleep while a signature is under way.

A signature is a relay race of processes: each hands over to the next and waits. A guest's processor that has nothing to
do for a moment is given back to the hypervisor, and to get it back takes longer than most of these steps. The kernel's
PM QoS interface keeps processors polling instead, for whoever may ask for it (kernel: admin-guide/pm/cpuidle.rst, and
power/pm_qos_interface.rst). While one of them polls, whatever has work to do still gets it at once.
"""

import logging
import os
import struct
from math import inf
from pathlib import Path
from typing import NoReturn

import trio

from agentproxy.runtime.alarm import Alarm

__all__ = ["Wakefulness"]

logger = logging.getLogger(__name__)

DEVICE = Path("/dev/cpu_dma_latency")  # a request lives as long as its file is open: none outlives a killed daemon
DRIVER = Path("/sys/devices/system/cpu/cpuidle/current_driver")
# For a guest that has this driver the kernel knows two states, polling and giving the processor back. Where hardware
# offers sleeps of many depths, to forbid all of them costs other processors their turbo: that is the operator's to say.
_GUEST = "haltpoll"
STAY_SECONDS = 0.01  # from gpg's question for its key, or a request, to the end of a lone signature and a bit
_NO_SLEEP, _ANY_SLEEP = (struct.pack("=i", microseconds) for microseconds in (0, 2_000_000_000))


class Wakefulness:
    """Asks the kernel for processors that stay awake, as long as there is something to do; one task ends that.

    Without the right to ask, and where it would be of no use, it does nothing.

    Args:
        device: what a tolerable latency is written to, in microseconds, as a native signed 32-bit number.
        driver: a file with the name of the driver of idle processors.
    """

    def __init__(self, device: Path = DEVICE, driver: Path = DRIVER) -> None:
        self._device = device
        self._descriptor = _opened(device, driver)
        self._is_awake = False
        self._until = -inf
        self._alarm = Alarm()

    def stay(self) -> None:
        """Let no processor sleep for the next STAY_SECONDS."""
        if self._descriptor is None:
            return
        self._until = trio.current_time() + STAY_SECONDS
        if not self._is_awake:
            self._is_awake = True
            self._alarm.set(self._until)
            self._allow(_NO_SLEEP)

    async def run(self) -> NoReturn:
        """Let processors sleep again when it is time, until cancelled; from then on they may."""
        try:
            while True:
                await self._alarm.wait()
                if trio.current_time() < self._until:
                    self._alarm.set(self._until)
                else:
                    self._is_awake = False
                    self._allow(_ANY_SLEEP)
        finally:
            self._close()

    def _allow(self, latency: bytes) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, latency)
        except OSError as error:  # nobody's signature may fail for it
            logger.warning("processors may sleep from now on: %s: %s", self._device, error.strerror)
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _opened(device: Path, driver: Path) -> int | None:
    try:
        if driver.read_text(encoding="ascii").strip() != _GUEST:
            return None
        descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    except PermissionError as error:
        logger.info("processors may sleep while a signature is under way: %s: %s", device, error.strerror)
        return None
    except (OSError, UnicodeError):  # neither kernel has to offer either
        return None
    logger.info("processors stay awake while a signature is under way")
    return descriptor
