"""JA4 of each connection, as ja4plus tells it: one JSON object a line with client, port and ja4.

`ja4.py FILE` reads a capture; `ja4.py --live INTERFACE` listens until it is ended, and says so on its first line.
"""

import argparse
import json

from ja4plus.fingerprinters.ja4 import JA4Fingerprinter
from scapy.layers.inet import TCP, UDP
from scapy.packet import Packet
from scapy.sendrecv import sniff
from scapy.utils import PcapReader


class Teller:
    """Says what each connection's first ClientHello gives."""

    def __init__(self) -> None:
        self.fingerprinter = JA4Fingerprinter()
        self.told: set[tuple[str, int]] = set()

    def packet(self, packet: Packet) -> None:
        """Takes the next packet."""
        transport = packet.getlayer(TCP) or packet.getlayer(UDP)
        if transport is None:
            return
        fingerprint = self.fingerprinter.process_packet(packet)
        connection = (transport.underlayer.src, transport.sport)
        if fingerprint and connection not in self.told:
            self.told.add(connection)
            client, port = connection
            print(json.dumps({"client": client, "port": port, "ja4": str(fingerprint)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--live", metavar="INTERFACE")
    arguments = parser.parse_args()
    teller = Teller()
    if arguments.live:
        ready = lambda: print("listening", flush=True)  # noqa: E731
        sniff(iface=arguments.live, prn=teller.packet, store=False, started_callback=ready)
    else:
        with PcapReader(arguments.file) as packets:
            for packet in packets:
                teller.packet(packet)


main()
