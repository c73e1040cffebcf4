# /// script
# dependencies = ["grpcio"]
# ///
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, _context: request[::-1])


def f(event):
    server = grpc.server(futures.ThreadPoolExecutor(1), [Echo()])
    port = server.add_insecure_port('127.0.0.1:0')
    server.start()
    with grpc.insecure_channel(f'127.0.0.1:{port}') as channel:
        assert channel.unary_unary('/a/b')(b'abc', timeout=20, wait_for_ready=True) == b'cba'
    server.stop(None).wait(20)
    return 'call to a server of its own'
