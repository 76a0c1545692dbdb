"""HTTP/3 with aioquic, over real sockets: a server, or a client that asks one question after the other.

`http3.py serve ADDRESS PORT` prints `listening` and answers each POST with `answered` bytes in `pieces` pieces, as
its path says: /ANSWERED/PIECES. `http3.py ask ADDRESS PORT ASKED/ANSWERED/PIECES...` asks, with bodies of `asked`
bytes, and fails when an answer has not the bytes that it should have.
"""

import asyncio
import datetime
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec


class Http(QuicConnectionProtocol):
    """What both ends do."""

    http: H3Connection

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        for heard in self.http.handle_event(event) if hasattr(self, "http") else []:
            self.hear(heard)

    def hear(self, event: H3Event) -> None:
        """Takes what the other end says."""
        raise NotImplementedError


class Server(Http):
    """Answers as the path says."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)
        self.paths: dict[int, str] = {}

    def hear(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self.paths[event.stream_id] = dict(event.headers)[b":path"].decode()
        if isinstance(event, (HeadersReceived, DataReceived)) and event.stream_ended:
            asyncio.get_running_loop().create_task(self.answer(event.stream_id))

    async def answer(self, stream: int) -> None:
        """Head, then the pieces, a little apart."""
        answered, pieces = map(int, self.paths.pop(stream).strip("/").split("/"))
        await asyncio.sleep(0.03)
        head = [(b":status", b"200"), (b"content-type", b"text/event-stream"), (b"server", b"model")]
        self.http.send_headers(stream, head)
        for number in range(pieces):
            self.http.send_data(stream, b"a" * (answered // pieces), end_stream=number + 1 == pieces)
            self.transmit()
            await asyncio.sleep(0.01)


class Client(Http):
    """Asks, and waits for the answer."""

    def hear(self, event: H3Event) -> None:
        if isinstance(event, DataReceived):
            self.heard += len(event.data)
        if isinstance(event, (HeadersReceived, DataReceived)) and event.stream_ended:
            self.done.set()

    async def ask(self, asked: int, path: str) -> int:
        """Bytes of the answer's body."""
        self.heard, self.done = 0, asyncio.Event()
        stream = self._quic.get_next_available_stream_id()
        head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"model"), (b":path", path.encode())]
        self.http.send_headers(stream, head)
        self.http.send_data(stream, b"q" * asked, end_stream=True)
        self.transmit()
        await self.done.wait()
        return self.heard


def certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for the server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "model")])
    begin = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin).not_valid_after(begin.replace(year=2126))
    return builder.sign(key, hashes.SHA256()), key


async def main() -> None:
    verb, address, port, *questions = sys.argv[1:]
    if verb == "serve":
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
        configuration.certificate, configuration.private_key = certificate()
        await serve(address, int(port), configuration=configuration, create_protocol=Server)
        print("listening", flush=True)
        await asyncio.Event().wait()
    configuration = QuicConfiguration(alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE)
    async with connect(address, int(port), configuration=configuration, create_protocol=Client) as client:
        for question in questions:
            asked, answered, pieces = map(int, question.split("/"))
            heard = await client.ask(asked, f"/{answered}/{pieces}")
            if heard != answered // pieces * pieces:
                sys.exit(f"{question}: {heard} bytes were answered")


asyncio.run(main())
