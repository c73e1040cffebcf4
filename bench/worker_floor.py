"""An idle Python that answers on descriptor 3, a socket: length (4 bytes, little-endian), JSON; the same back."""

import json
import socket
import struct

channel = socket.socket(fileno=3)
header = struct.Struct('<I')
received = bytearray()
while True:
    while len(received) < 4 or len(received) < 4 + header.unpack_from(received)[0]:
        data = channel.recv(65536)
        if not data:
            raise SystemExit
        received += data
    (size,) = header.unpack_from(received)
    event = json.loads(bytes(received[4 : 4 + size]))
    del received[: 4 + size]
    body = json.dumps(event, separators=(',', ':')).encode()
    channel.sendall(header.pack(len(body)) + body)
