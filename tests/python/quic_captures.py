"""Captures of HTTP/3 conversations between two aioquic ends, with what was really asked and answered.

`quic_captures.py FOLDER` writes one pcap file a case and `truth.json`: for each, `ja4` as ja4plus tells it and
`requests`, each with the bytes of head and body either way and its times. The network in between has a delay and no
loss; frames are stamped at the server's end. The service's port is 8443.
"""

import datetime
import heapq
import itertools
import json
import pathlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ProtocolNegotiated, QuicEvent
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from ja4plus.fingerprinters.ja4 import JA4Fingerprinter
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils import wrpcap

CLIENT, SERVER = ("10.0.0.9", 40_000), ("10.0.0.1", 8443)
DELAY = 0.004
# So many that their ClientHello takes two datagrams.
MANY = ["h3", *(f"protocol-number-{n}-of-many" for n in range(40))]


@dataclass(frozen=True)
class Ask:
    """One request and its answer: bytes of the bodies, and the pieces and pace of the answer."""

    asked: int
    pieces: list[int]
    pace: float = 0.02
    think: float = 0.05


@dataclass(frozen=True)
class Case:
    """What a client asks on its connection, one after the other, and how it greets."""

    name: str
    asks: list[Ask]
    pause: float = 0.1
    version: int = QuicProtocolVersion.VERSION_1
    protocols: list[str] = field(default_factory=lambda: ["h3"])
    host: str | None = "model.example"
    swap: bool = False


def asks(seed: int, count: int) -> list[Ask]:
    """Questions of usual sizes; half of the answers are streamed."""
    chance = random.Random(seed)
    made = []
    for turn in range(count):
        streamed = [chance.randrange(230, 250) for _ in range(chance.randrange(4, 60))]
        made.append(Ask(chance.randrange(150, 6000), streamed if turn % 2 else [chance.randrange(300, 30_000)]))
    return made


CASES = [
    Case("one_after_the_other", asks(1, 20)),
    Case("short", [Ask(120, [60]) for _ in range(10)]),
    Case("long_questions", [Ask(60_000, [500]) for _ in range(5)]),
    Case("without_name", asks(2, 4), host=None),
    Case("version_2", asks(3, 4), version=QuicProtocolVersion.VERSION_2),
    Case("split_hello", asks(4, 4), protocols=MANY),
    Case("split_hello_swapped", asks(5, 4), protocols=MANY, swap=True),
]


class Network:
    """A clock, and what happens at which time."""

    def __init__(self) -> None:
        self.now = 1.0
        self.order = itertools.count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, happens: Callable[[], None]) -> None:
        """Lets something happen then."""
        heapq.heappush(self.events, (max(time, self.now), next(self.order), happens))

    def run(self, until: float) -> None:
        """Lets everything happen up to a time."""
        while self.events and self.events[0][0] <= until:
            self.now, _, happens = heapq.heappop(self.events)
            happens()


class End:
    """One end of a connection."""

    def __init__(self, network: Network, quic: QuicConnection, address: tuple[str, int]) -> None:
        self.network, self.quic, self.address = network, quic, address
        self.other: End
        self.http: H3Connection | None = None
        self.taps: list[Callable[[float, tuple[str, int], bytes], None]] = []
        self.on_event: Callable[[object], None] = lambda _: None

    def act(self) -> None:
        """Hands on what there is to send and to tell."""
        while event := self.quic.next_event():
            self.event(event)
        for datagram, _ in self.quic.datagrams_to_send(self.network.now):
            arrives = self.network.now + DELAY
            for tap in self.taps:
                tap(self.network.now, self.address, datagram)
            self.network.at(arrives, lambda datagram=datagram: self.other.receive(datagram))
        if timer := self.quic.get_timer():
            self.network.at(timer, self.expire)

    def expire(self) -> None:
        """The connection's timer may have come."""
        timer = self.quic.get_timer()
        if timer and timer <= self.network.now:
            self.quic.handle_timer(self.network.now)
            self.act()

    def receive(self, datagram: bytes) -> None:
        """Takes a datagram of the other end."""
        self.quic.receive_datagram(datagram, self.other.address, self.network.now)
        self.act()

    def event(self, event: QuicEvent) -> None:
        """Hands on what the connection tells."""
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self.quic)
            self.on_event(event)
        if self.http:
            for heard in self.http.handle_event(event):
                self.on_event(heard)


def certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for the server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "model.example")])
    begin = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin).not_valid_after(begin.replace(year=2126))
    return builder.sign(key, hashes.SHA256()), key


class Conversation:
    """A client that asks, a server that answers, and who writes it down."""

    def __init__(self, case: Case) -> None:
        self.case, self.network = case, Network()
        self.frames: list[Packet] = []
        self.requests: list[dict[str, float]] = []
        versions = {"original_version": case.version, "supported_versions": [case.version]}
        asking = QuicConfiguration(is_client=True, alpn_protocols=case.protocols, verify_mode=0, **versions)
        asking.server_name = case.host
        answering = QuicConfiguration(is_client=False, alpn_protocols=["h3"], supported_versions=[case.version])
        answering.certificate, answering.private_key = certificate()
        quic = QuicConnection(configuration=asking)
        server = QuicConnection(
            configuration=answering, original_destination_connection_id=quic.original_destination_connection_id
        )
        self.client, self.server = End(self.network, quic, CLIENT), End(self.network, server, SERVER)
        self.client.other, self.server.other = self.server, self.client
        self.client.on_event, self.server.on_event = self.client_hears, self.server_hears
        # Both as the server's end sees them.
        self.client.taps.append(lambda time, source, data: self.record(time + DELAY, source, SERVER, data))
        self.server.taps.append(lambda time, source, data: self.record(time, source, CLIENT, data))

    def record(self, time: float, source: tuple[str, int], target: tuple[str, int], data: bytes) -> None:
        """Writes a datagram down."""
        ip = IP(src=source[0], dst=target[0]) / UDP(sport=source[1], dport=target[1]) / data
        frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / ip
        frame.time = time
        self.frames.append(frame)

    def run(self) -> None:
        """Connects, asks everything, and closes."""
        self.client.quic.connect(SERVER, now=self.network.now)
        self.client.act()
        self.network.run(600)
        self.frames.sort(key=lambda frame: frame.time)
        if self.case.swap:
            self.frames[:2] = self.frames[1::-1]
            self.frames[0].time, self.frames[1].time = self.frames[1].time, self.frames[0].time

    def ask(self) -> None:
        """Asks the next question, or closes after the last."""
        if len(self.requests) == len(self.case.asks):
            self.client.quic.close()
            self.client.act()
            return
        ask = self.case.asks[len(self.requests)]
        head = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"model.example"),
                (b":path", b"/v1/chat/completions"), (b"content-type", b"application/json"),
                (b"authorization", b"Bearer sk-0123456789abcdef0123456789abcdef"),
                (b"user-agent", b"openai/3"), (b"content-length", str(ask.asked).encode())]
        self.requests.append({"asked": ask.asked, "answered": sum(ask.pieces), "pieces": len(ask.pieces)})
        stream = self.client.quic.get_next_available_stream_id()
        self.client.http.send_headers(stream, head)
        self.client.http.send_data(stream, b"q" * ask.asked, end_stream=True)
        self.client.act()

    def client_hears(self, event: object) -> None:
        """Asks on when an answer has ended."""
        if isinstance(event, ProtocolNegotiated):
            # Handshakes end in this very moment; a client asks once it has heard of it.
            self.network.at(self.network.now, self.ask)
        elif isinstance(event, (HeadersReceived, DataReceived)) and event.stream_ended:
            self.network.at(self.network.now + self.case.pause, self.ask)

    def server_hears(self, event: object) -> None:
        """Answers a question that has ended."""
        if not isinstance(event, (HeadersReceived, DataReceived)) or not event.stream_ended:
            return
        request, ask = self.requests[-1], self.case.asks[len(self.requests) - 1]
        request["end"] = self.network.now
        first = self.network.now + ask.think
        request["first"], request["last"] = first, first + ask.pace * len(ask.pieces)

        def head() -> None:
            self.server.http.send_headers(event.stream_id, [(b":status", b"200"), (b"server", b"model"),
                                                            (b"content-type", b"text/event-stream")])
            self.server.act()

        def piece(size: int, last: bool) -> None:
            self.server.http.send_data(event.stream_id, b"a" * size, end_stream=last)
            self.server.act()

        self.network.at(first, head)
        for number, size in enumerate(ask.pieces, 1):
            last = number == len(ask.pieces)
            self.network.at(first + ask.pace * number, lambda size=size, last=last: piece(size, last))


def ja4(case: Case) -> str:
    """What ja4plus makes of this ClientHello. It reads version 1 alone; the ClientHello does not depend on that."""
    conversation = Conversation(replace(case, version=QuicProtocolVersion.VERSION_1))
    conversation.run()
    fingerprinter = JA4Fingerprinter()
    return next(str(told) for frame in conversation.frames if (told := fingerprinter.process_packet(frame)))


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    truth = {}
    for case in CASES:
        conversation = Conversation(case)
        conversation.run()
        wrpcap(str(folder / f"{case.name}.pcap"), conversation.frames)
        truth[case.name] = {"ja4": ja4(case), "requests": conversation.requests}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))


main()
