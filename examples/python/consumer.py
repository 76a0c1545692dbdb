"""Follows the anomalies of a Hydrometer control plane: a line of JSON for each state of each anomaly.

    pip install grpcio grpcio-tools
    python consumer.py 127.0.0.1:7070 --proto ../../proto --token-file token --min-severity medium
    python consumer.py control.example:7070 --ca ca.crt --cert reader.crt --key reader.key

It reads the published .proto files when it starts, so nothing has to be generated first. The token of the last
line that was printed is kept in --token-file: started again, it goes on after that line, whatever happened to
either side. What was lost on the way is told on standard error.
"""

import argparse
import json
import os
import sys
import time

import grpc
from google.protobuf.json_format import MessageToDict

# The same request would be answered the same.
FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}


def main() -> int:
    options = arguments()
    sys.path.insert(0, options.proto)
    feed, stub = grpc.protos_and_services("hydrometer/v1/feed.proto")
    anomaly = grpc.protos("hydrometer/v1/anomaly.proto")
    client = stub.FeedStub(channel(options))
    token = read(options.token_file)
    pause = 0.1
    while True:
        request = feed.SubscribeRequest(
            resume_token=token,
            follow=True,
            min_severity=anomaly.Severity.Value(f"SEVERITY_{options.min_severity.upper()}"),
            client_networks=options.network,
            atlas_techniques=options.technique,
        )
        request.fields.paths.extend(options.field)
        try:
            for message in client.Subscribe(request):
                pause = 0.1
                for lost in message.lost:
                    print(f"{lost.count} states lost ({lost.stage} {lost.node})", file=sys.stderr, flush=True)
                if message.HasField("anomaly"):
                    line = MessageToDict(message.anomaly, preserving_proto_field_name=True)
                    print(json.dumps(line), flush=True)
                # Only now: a crash before this line prints it again, and loses nothing.
                token = message.resume_token
                write(options.token_file, token)
        except grpc.RpcError as error:
            if error.code() in FINAL:
                print(f"refused: {error.details()}", file=sys.stderr)
                return 1
            print(f"trying again: {error.details()}", file=sys.stderr, flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 10)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Follows the anomalies of a Hydrometer control plane.")
    parser.add_argument("address", help="HOST:PORT, or unix:/PATH")
    parser.add_argument("--proto", default="proto", help="folder with hydrometer/v1/feed.proto")
    parser.add_argument("--token-file", help="where to keep how far it has got")
    parser.add_argument("--min-severity", default="low", choices=["low", "medium", "high", "critical"])
    parser.add_argument("--network", action="append", default=[], help="only clients within, such as 203.0.113.0/24")
    parser.add_argument("--technique", action="append", default=[], help="only this ATLAS technique")
    parser.add_argument("--field", action="append", default=[], help="only this field, such as evidence.summary")
    parser.add_argument("--ca", help="authority of the control plane, PEM; with --cert and --key")
    parser.add_argument("--cert", help="our certificate, PEM")
    parser.add_argument("--key", help="our key, PEM")
    return parser.parse_args()


def channel(options: argparse.Namespace) -> grpc.Channel:
    if options.ca is None:
        # For a unix socket gRPC would make its path the authority, which servers refuse.
        return grpc.insecure_channel(options.address, [("grpc.default_authority", "localhost")])
    ca, key, cert = (open(path, "rb").read() for path in (options.ca, options.key, options.cert))
    return grpc.secure_channel(options.address, grpc.ssl_channel_credentials(ca, key, cert))


def read(path: str | None) -> str:
    if path is None or not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read().strip()


def write(path: str | None, token: str) -> None:
    if path is not None:
        # Renamed into place, so that a crash leaves the old token or the new one.
        with open(f"{path}.new", "w") as file:
            file.write(token)
        os.replace(f"{path}.new", path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
