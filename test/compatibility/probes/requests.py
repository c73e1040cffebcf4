# /// script
# dependencies = ["requests"]
# ///
import http.server
import threading

import requests


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"a": 1}')

    def log_message(self, *_):
        pass


def f(event):
    server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert requests.get(f'http://127.0.0.1:{server.server_port}/', timeout=20).json() == {'a': 1}
    server.shutdown()
    return 'request to a server of its own'
