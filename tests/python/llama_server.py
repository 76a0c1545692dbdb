"""Runs the llama.cpp server (OpenAI API) until standard input closes.

Prints one line, `ready URL`, once it listens. It ends with its parent: the parent holds the other end of
standard input.

Usage: llama_server.py MODEL.gguf ADDRESS PORT SLOTS
"""

import sys

from xllamacpp import CommonParams, Server

CONTEXT_PER_SLOT = 1024
# Enough for every connection the proxy keeps open, each of which holds a thread of the server.
HTTP_THREADS = 48


def main(model: str, address: str, port: int, slots: int) -> None:
    """Serves `model` at `address`:`port` with `slots` answers at a time."""
    params = CommonParams()
    params.model.path = model
    params.hostnames = [address]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = CONTEXT_PER_SLOT * slots
    params.n_threads_http = HTTP_THREADS
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.warmup = False
    # The raised variance of a model that never learned would otherwise end some answers at once.
    params.sampling.ignore_eos = True
    params.verbosity = 0

    server = Server(params)
    print(f"ready {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
