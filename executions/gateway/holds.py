"""Who carries out what in this process, so that of two equal requests the second waits for the first."""

import asyncio

from executions.gateway.journal import Key


class Holds:
    """The requests that are being carried out here. Belongs to one event loop; needs no lock."""

    def __init__(self) -> None:
        self._held: dict[Key, asyncio.Future[None]] = {}

    async def take(self, key: Key) -> bool:
        """Hold `key` as soon as nobody else does; True when somebody did. `free` it in the end."""
        waited = False
        while (other := self._held.get(key)) is not None:
            waited = True
            await asyncio.wait((other,))
        self._held[key] = asyncio.get_running_loop().create_future()
        return waited

    def free(self, key: Key) -> None:
        self._held.pop(key).set_result(None)
