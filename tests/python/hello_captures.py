"""Captures of real TLS conversations whose ClientHello comes in a way that is hard to read, and its JA4.

`hello_captures.py FOLDER` writes one pcap file a case, and `ja4.json` with what ja4plus says of each ClientHello.
Both ends are OpenSSL, through memory; the segments are cut, repeated and put out of order here. Each file has an
ordinary connection first, so that it is known that the service, on port 8443, speaks TLS.
"""

import datetime
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from ja4plus.fingerprinters.ja4 import generate_ja4
from ja4plus.utils.tls_utils import extract_tls_info
from OpenSSL import SSL
from OpenSSL.crypto import PKey, X509
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

CLIENT, SERVER = "10.0.0.9", "10.0.0.1"
PORT = 8443
MSS = 1448
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: model\r\ncontent-length: 400\r\n\r\n" + b"x" * 400
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n" + b"y" * 900

Piece = tuple[int, bytes]
Arrangement = Callable[[bytes], list[Piece]]


def cut(size: int) -> Arrangement:
    """Pieces of `size` bytes, in order."""
    return lambda flight: [(at, flight[at : at + size]) for at in range(0, len(flight), size)]


def repeated(flight: bytes) -> list[Piece]:
    """Every piece twice, then two at once, as a sender does that got no acknowledgement."""
    pieces = cut(500)(flight)
    return [piece for piece in pieces for _ in range(2)] + [(0, flight[:1000]), (300, flight[300:1200])]


def swapped(flight: bytes) -> list[Piece]:
    """The first piece first, the others from last to first."""
    first, *others = cut(400)(flight)
    return [first, *reversed(others)]


def reversed_(flight: bytes) -> list[Piece]:
    """From last to first."""
    return cut(700)(flight)[::-1]


@dataclass(frozen=True)
class Case:
    """How a client greets and how its first flight travels."""

    name: str
    arrange: Arrangement = cut(MSS)
    version: int = SSL.TLS1_3_VERSION
    post_quantum: bool = True
    host: bytes | None = b"model.example"
    protocols: list[bytes] = field(default_factory=list)


CASES = [
    Case("tls12", version=SSL.TLS1_2_VERSION, protocols=[b"http/1.1"]),
    Case("tls12_no_name", version=SSL.TLS1_2_VERSION, host=None),
    Case("tls13", post_quantum=False, protocols=[b"h2", b"http/1.1"]),
    Case("tls13_bytes", cut(1), post_quantum=False),
    Case("post_quantum", protocols=[b"http/1.1"]),
    Case("post_quantum_many", cut(100), protocols=[b"http/1.1"]),
    Case("post_quantum_repeated", repeated, protocols=[b"http/1.1"]),
    Case("post_quantum_swapped", swapped, host=None),
    Case("post_quantum_reversed", reversed_, host=None),
]


def certificate() -> tuple[X509, PKey]:
    """A certificate for the server."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "model.example")])
    begin = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begin).not_valid_after(begin.replace(year=2126))
    return X509.from_cryptography(builder.sign(key, hashes.SHA256())), PKey.from_cryptography_key(key)


def ends(case: Case) -> tuple[SSL.Connection, SSL.Connection]:
    """The client's and the server's end, connected to nothing."""
    asking = SSL.Context(SSL.TLS_METHOD)
    asking.set_min_proto_version(case.version)
    asking.set_max_proto_version(case.version)
    if not case.post_quantum:
        asking.set_tmp_ecdh(ec.SECP256R1())
    if case.protocols:
        asking.set_alpn_protos(case.protocols)
    answering = SSL.Context(SSL.TLS_METHOD)
    shown, key = certificate()
    answering.use_certificate(shown)
    answering.use_privatekey(key)
    client, server = SSL.Connection(asking, None), SSL.Connection(answering, None)
    if case.host:
        client.set_tlsext_host_name(case.host)
    client.set_connect_state()
    server.set_accept_state()
    return client, server


def flights(case: Case) -> Iterator[tuple[bool, bytes]]:
    """What travels: whether the client sends it, and its bytes."""
    client, server = ends(case)
    sides = {True: client, False: server}
    done: set[bool] = set()
    for turn in range(20):
        asks = turn % 2 == 0
        if asks not in done:
            try:
                sides[asks].do_handshake()
                done.add(asks)
            except SSL.WantReadError:
                pass
        if sent := drain(sides[asks]):
            yield asks, sent
            sides[not asks].bio_write(sent)
        if len(done) == 2:
            break
    for asks, text in [(True, REQUEST), (False, ANSWER)]:
        sides[asks].send(text)
        sent = drain(sides[asks])
        yield asks, sent
        sides[not asks].bio_write(sent)


def drain(end: SSL.Connection) -> bytes:
    """What an end has to send."""
    try:
        return end.bio_read(1 << 20)
    except SSL.WantReadError:
        return b""


class Recorder:
    """Writes down conversations as frames, a millisecond apart."""

    def __init__(self) -> None:
        self.frames: list[Packet] = []

    def frame(self, asks: bool, port: int, flags: str, seq: int, ack: int, payload: bytes = b"") -> None:
        """One segment."""
        ends, ports = [CLIENT, SERVER], [port, PORT]
        if not asks:
            ends, ports = ends[::-1], ports[::-1]
        tcp = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack)
        made = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src=ends[0], dst=ends[1]) / tcp / payload
        made.time = 1 + len(self.frames) / 1000
        self.frames.append(made)

    def conversation(self, port: int, sent: list[tuple[bool, bytes]], arrange: Arrangement) -> None:
        """A connection; its first flight travels as arranged."""
        number = {True: 1_000, False: 5_000}
        for asks, flags in [(True, "S"), (False, "SA")]:
            self.frame(asks, port, flags, number[asks], 0 if asks else number[True])
            number[asks] += 1
        self.frame(True, port, "A", number[True], number[False])
        for turn, (asks, flight) in enumerate(sent):
            for at, piece in (arrange if turn == 0 else cut(MSS))(flight):
                self.frame(asks, port, "PA", number[asks] + at, number[not asks], piece)
            number[asks] += len(flight)
        for asks in (False, True):
            self.frame(asks, port, "FA", number[asks], number[not asks])
            number[asks] += 1


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    fingerprints = {}
    for case in CASES:
        recorder = Recorder()
        recorder.conversation(40_000, list(flights(Case("ordinary", post_quantum=False))), cut(MSS))
        sent = list(flights(case))
        recorder.conversation(40_001, sent, case.arrange)
        wrpcap(str(folder / f"{case.name}.pcap"), recorder.frames)
        fingerprints[case.name] = generate_ja4(extract_tls_info(IP() / TCP(dport=PORT) / Raw(sent[0][1])))
    (folder / "ja4.json").write_text(json.dumps(fingerprints))


main()
