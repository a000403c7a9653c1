from math import inf

import trio
import trio.testing

from agentproxy.runtime.alarm import Alarm


async def test_a_wait_ends_at_the_time_that_was_set_last_and_the_next_one_waits_for_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    alarm, rung = Alarm(), list[float]()
    began = trio.current_time()

    async def listen() -> None:
        while True:
            await alarm.wait()
            rung.append(trio.current_time() - began)

    alarm.set(began + 1)  # before anybody waits
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(5)
        assert rung == [1]
        alarm.set(began + 6)
        alarm.set(began + 7)
        await trio.sleep(5)
        assert rung == [1, 7]
        alarm.set(began + 11)
        alarm.set(inf)
        await trio.sleep(5)
        assert rung == [1, 7]
        alarm.set(began)  # has been already
        await trio.sleep(1)
        assert rung == [1, 7, 15]
        nursery.cancel_scope.cancel()
