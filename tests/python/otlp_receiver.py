"""A receiver of OTLP logs over gRPC, from OpenTelemetry's own definitions: prints each record as a line of JSON.

Arguments: the address to listen on, and how often to answer UNAVAILABLE first. The first line is the port.
"""

import json
import sys
from concurrent import futures

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc


class Receiver(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, unavailable: int):
        self.unavailable = unavailable

    def Export(self, request, context):
        if self.unavailable > 0:
            self.unavailable -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        for resource in request.resource_logs:
            service = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    line = {"resource": service, "scope": scope.scope.name, "record": MessageToDict(record)}
                    print(json.dumps(line), flush=True)
        return logs_service_pb2.ExportLogsServiceResponse()


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Receiver(int(sys.argv[2])), server)
    port = server.add_insecure_port(sys.argv[1])
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


main()
