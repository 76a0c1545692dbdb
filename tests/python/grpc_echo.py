"""A gRPC server that echoes, and its client: messages are plain bytes, so there is no service definition.

Usage: grpc_echo.py serve ADDRESS:PORT    until standard input closes; prints `ready`
       grpc_echo.py ask ADDRESS:PORT ROUNDS    prints the number of calls that were answered
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "hydrometer.test.Echo"
# Messages of an answer or a question in several.
MESSAGES = 12


def serve(address: str) -> None:
    """Answers calls at `address`."""
    methods = {
        "Once": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
        "Answers": grpc.unary_stream_rpc_method_handler(lambda message, _: (message for _ in range(MESSAGES))),
        "Questions": grpc.stream_unary_rpc_method_handler(lambda messages, _: b"".join(messages)),
    }
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(None)


def ask(address: str, rounds: int) -> int:
    """Makes calls of every kind, all on one connection; returns how many."""
    with grpc.insecure_channel(address) as channel:
        once = channel.unary_unary(f"/{SERVICE}/Once")
        answers = channel.unary_stream(f"/{SERVICE}/Answers")
        questions = channel.stream_unary(f"/{SERVICE}/Questions")
        for n in range(rounds):
            message = bytes(20 + 97 * n)
            assert once(message) == message
            assert list(answers(message)) == [message] * MESSAGES
            assert questions(iter([message] * MESSAGES)) == message * MESSAGES
        together = [once.future(bytes(300 + n)) for n in range(rounds)]
        assert [len(call.result()) for call in together] == [300 + n for n in range(rounds)]
    return 4 * rounds


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", address]:
            serve(address)
        case ["ask", address, rounds]:
            print(ask(address, int(rounds)))
        case _:
            sys.exit(__doc__)
