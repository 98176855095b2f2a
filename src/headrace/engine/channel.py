"""Messages over a stream socket: four bytes of length (little-endian), then msgpack.

Both ends live here: `Channel` blocks (the engine's side), `ChannelProtocol` belongs to an asyncio
loop (the client's side). End of file is how either side learns of the other's death. Knows how
messages travel, not what they mean.
"""

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

Message = TypeVar("Message")

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
_HEADER_BYTES: Final = 4
_RECEIVE_BYTES: Final = 256 * 1024
PATIENCE_SECONDS: Final = 0.05
"""What idle work waits for: the next message often answers the last within milliseconds."""


class FrameError(Exception):
    """The other side does not speak this protocol; the connection is of no more use."""


class FrameWriter:
    """Turns messages into frames."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()

    def frame(self, message: Any) -> bytearray:
        buffer = bytearray(_HEADER_BYTES)
        self._encoder.encode_into(message, buffer, _HEADER_BYTES)
        size = len(buffer) - _HEADER_BYTES
        if size > MAX_FRAME_BYTES:
            raise FrameError(f"message of {size} bytes; at most {MAX_FRAME_BYTES} are allowed")
        buffer[:_HEADER_BYTES] = size.to_bytes(_HEADER_BYTES, "little")
        return buffer


class FrameReader(Generic[Message]):
    """Puts frames together from pieces of any size, and decodes them.

    `kind` is the type (or union) that messages must have.
    """

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes. Raises FrameError."""
        self._buffer += data
        messages = []
        begin = 0
        while len(self._buffer) - begin >= _HEADER_BYTES:
            body = begin + _HEADER_BYTES
            size = int.from_bytes(self._buffer[begin:body], "little")
            if size > MAX_FRAME_BYTES:
                raise FrameError(f"frame of {size} bytes; at most {MAX_FRAME_BYTES} are allowed")
            if len(self._buffer) < body + size:
                break
            begin = body + size
            messages.append(self._decode(self._buffer[body:begin]))
        del self._buffer[:begin]
        return messages

    def _decode(self, body: bytearray) -> Message:
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise FrameError(f"frame cannot be decoded: {error}") from error


class Channel(Generic[Message]):
    """The blocking end. `receives` is the type (or union) of the messages that come in."""

    def __init__(self, connection: socket.socket, receives: Any) -> None:
        self._socket = connection
        self._socket.setblocking(True)
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._writer = FrameWriter()
        self._reader: FrameReader[Message] = FrameReader(receives)
        self._unsent = bytearray()

    def send(self, message: Any) -> None:
        """Send one message; nothing happens when the other side is gone (see `receive`)."""
        self.put(message)
        self.flush()

    def put(self, message: Any) -> None:
        """Leave a message to the next `send` or `flush`."""
        self._unsent += self._writer.frame(message)

    def flush(self) -> None:
        """Send in one piece what was put, if anything was."""
        if not self._unsent:
            return
        unsent, self._unsent = self._unsent, bytearray()
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(unsent)

    def receive(self, *, wait: bool) -> list[Message] | None:
        """Return the messages that have arrived; with `wait`, sleep until there is one.

        None means that the other side has closed the connection.
        """
        messages: list[Message] = []
        while True:
            try:
                block = wait and not messages
                data = self._socket.recv(_RECEIVE_BYTES, 0 if block else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            except ConnectionResetError:
                data = b""
            if not data:
                return messages or None
            messages += self._reader.feed(data)

    def receive_idle(
        self, work: Callable[[], bool], patience: float = PATIENCE_SECONDS
    ) -> list[Message] | None:
        """As `receive` with `wait`. When nothing arrives for `patience` seconds, calls `work` while
        nothing arrives and until it is False."""
        is_idle = not self._readable.poll(patience * 1000)
        while is_idle and work():
            if (messages := self.receive(wait=False)) != []:
                return messages
        return self.receive(wait=True)


class ChannelProtocol(asyncio.Protocol, Generic[Message]):
    """The asyncio end: calls `on_message` for each message, in order, until `closed` is set."""

    def __init__(self, receives: Any, on_message: Callable[[Message], None]) -> None:
        self._reader: FrameReader[Message] = FrameReader(receives)
        self._writer = FrameWriter()
        self._on_message = on_message
        self._transport: asyncio.Transport | None = None
        self.closed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: Any) -> None:
        """Send one message; nothing happens when the other side is gone (see `closed`)."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self._writer.frame(message))

    def close(self) -> None:
        """Close without waiting for what is not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it

    def data_received(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


async def connect(
    connection: socket.socket, receives: Any, on_message: Callable[[Message], None]
) -> ChannelProtocol[Message]:
    """Attach a connected Unix socket to the running loop, which closes it in the end."""
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_unix_connection(
        lambda: ChannelProtocol(receives, on_message), sock=connection
    )
    return protocol
