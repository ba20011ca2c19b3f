"""A TCP proxy on loopback that can swallow what the server answers, or cut its connections."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

from tests.services.processes import LOOPBACK

_CHUNK_BYTES = 65_536
_START_SECONDS = 10
_LOOK_EVERY_SECONDS = 0.05


class TcpProxy:
    """Passes bytes on in both directions, until told otherwise from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server_port: int) -> None:
        self.swallowed_bytes = 0
        self._loop = loop
        self._server_port = server_port
        self._mute = False
        self._writers: set[asyncio.StreamWriter] = set()

    def swallow_answers(self) -> None:
        """From now on clients hear nothing, while the server hears everything."""
        self._mute = True

    def reset(self) -> None:
        """Cut every connection, as a crash of the network would."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def resume(self) -> None:
        """Pass everything on again, by new connections: the old ones have holes."""
        self._mute = False
        self.reset()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""
        try:
            answers, questions = await asyncio.open_connection(LOOPBACK, self._server_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, questions}
        self._writers |= pair
        await asyncio.gather(self._pass_on(reader, questions), self._pass_on(answers, writer, True))
        self._writers -= pair

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool = False
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if answers and self._mute:
                    self.swallowed_bytes += len(chunk)
                    continue
                writer.write(chunk)
                await writer.drain()
        while answers and self._mute:  # That the server closes is an answer, too.
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
        writer.transport.abort()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextmanager
def running(listen_port: int, server_port: int) -> Iterator[TcpProxy]:
    """Give a proxy between the two ports that takes connections."""
    loop = asyncio.new_event_loop()
    proxy = TcpProxy(loop, server_port)
    thread = Thread(target=loop.run_forever, name="tcp-proxy")
    thread.start()

    async def stop() -> None:
        server.close()
        proxy.resume()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(tasks, timeout=1) if tasks else None

    try:
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(proxy.connect, LOOPBACK, listen_port), loop
        ).result(_START_SECONDS)
        yield proxy
        asyncio.run_coroutine_threadsafe(stop(), loop).result(_START_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
