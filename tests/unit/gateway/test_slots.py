"""The line in front of a model."""

import asyncio

from executions.gateway.slots import Slots


async def _nobody(_ahead: int) -> None:
    raise AssertionError("nobody waits so long")


async def test_first_come_first_served() -> None:
    slots, order = Slots(), []
    gate = asyncio.Event()

    async def one(number: int) -> None:
        async with slots.hold("m", 2, patience=60, on_wait=_nobody):
            order.append(number)
            await gate.wait()

    tasks = [asyncio.ensure_future(one(n)) for n in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (slots.busy, slots.queued) == (2, 3)
    gate.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert (slots.busy, slots.queued) == (0, 0)


async def test_who_leaves_in_the_moment_of_its_turn_hands_it_on() -> None:
    slots = Slots()
    holder = slots.hold("m", 1, patience=60, on_wait=_nobody)
    await holder.__aenter__()

    async def one() -> None:
        async with slots.hold("m", 1, patience=60, on_wait=_nobody):
            pass

    first, second = asyncio.ensure_future(one()), asyncio.ensure_future(one())
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)  # it is the first one's turn now,
    first.cancel()  # which it will not take
    await second
    assert (slots.busy, slots.queued) == (0, 0)


async def test_a_raised_limit_lets_the_next_in() -> None:
    slots = Slots()
    async with slots.hold("m", 1, patience=60, on_wait=_nobody), slots.hold("m", 2, patience=60, on_wait=_nobody):
        assert slots.busy == 2


async def test_models_do_not_wait_for_each_other_and_long_waits_are_told() -> None:
    slots, told = Slots(), []
    done = asyncio.Event()

    async def tell(ahead: int) -> None:
        told.append(ahead)
        done.set()

    async def one() -> None:
        async with slots.hold("a", 1, patience=0, on_wait=tell) as waited:
            assert waited >= 0

    async with slots.hold("a", 1, patience=0, on_wait=_nobody), slots.hold("b", 1, patience=0, on_wait=_nobody):
        task = asyncio.ensure_future(one())
        await done.wait()
    await task
    assert told == [1]
