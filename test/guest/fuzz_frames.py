"""Drives receive() of src/guest/leaf.py over a socket pair: random streams, cut at random places, against a plain decoder.

    python3 fuzz_frames.py SECONDS [SEED]

Prints its seed; with SEED it repeats a run.
"""

import os
import random
import socket
import struct
import sys
import time
from typing import Iterator, NoReturn, Tuple, Union

KINDS = (2, 5, 16, 17, 18, 19, 131, 255)
# Around the sizes at which one read ends: the guest reads 64 KiB at a time.
SIZES = (0, 1, 4, 5, 6, 300, 65530, 65531, 65532, 65536, 150_000)
MAX_PIECE = 100_000  # must fit into the socket, for nobody reads meanwhile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', '..', 'src'))
sys.dont_write_bytecode = True

from guest import leaf  # noqa: E402

Frame = Tuple[int, bytes]


class Ended(BaseException):
    """In place of the end of the process."""


class Pieces:
    """In place of ``os`` and the poll object of the leaf: a piece is written when the leaf has taken the one before."""

    def __init__(self, pieces: Iterator[bytes], host: socket.socket) -> None:
        self.pieces = pieces
        self.host = host
        self.unread = 0

    def feed(self) -> None:
        if self.unread > 0:
            return
        piece = next(self.pieces, b'')
        if piece:
            self.host.sendall(piece)
        else:
            self.host.close()
        self.unread = len(piece)

    def poll(self) -> None:
        self.feed()
        real_waiter.poll()

    def read(self, fd: int, size: int) -> bytes:
        self.feed()
        data = os.read(fd, size)
        self.unread -= len(data)
        return data

    def _exit(self, status: int) -> NoReturn:
        raise Ended(status)


def make_stream(draw: random.Random) -> bytes:
    parts: list[bytes] = []
    for _ in range(draw.randrange(6)):
        size = draw.choice(SIZES) if draw.random() < 0.3 else draw.randrange(40)
        parts.append(struct.pack('<IB', size, draw.choice(KINDS)) + draw.randbytes(size))
    stream = b''.join(parts)
    how = draw.randrange(4)
    if how == 0:
        return stream[: draw.randrange(len(stream) + 1)]
    return stream + draw.randbytes(draw.randrange(12)) if how == 1 else stream


def cut(stream: bytes, draw: random.Random) -> list[bytes]:
    small = draw.random() < 0.5 and len(stream) < 2000
    pieces: list[bytes] = []
    at = 0
    while at < len(stream):
        # The very ends of frames are cut often, for there the fast way is taken or not.
        wanted = draw.randrange(1, 8) if small else draw.choice((5, 4, 6, 65536, draw.randrange(1, MAX_PIECE)))
        pieces.append(stream[at : at + wanted])
        at += wanted
    return pieces


def decode(stream: bytes) -> list[Frame]:
    """All whole frames of a stream."""
    frames: list[Frame] = []
    while len(stream) >= 5:
        size = int.from_bytes(stream[:4], 'little')
        if len(stream) < 5 + size:
            break
        frames.append((stream[4], stream[5 : 5 + size]))
        stream = stream[5 + size :]
    return frames


def hear(pieces: list[bytes]) -> list[Union[Frame, int]]:
    """What receive() answers until it ends the process, and the status that it ends with."""
    guest, host = socket.socketpair()
    os.dup2(guest.fileno(), leaf.CHANNEL)
    guest.close()
    leaf.os = leaf.waiter = Pieces(iter(pieces), host)
    leaf.received.clear()
    heard: list[Union[Frame, int]] = []
    try:
        while True:
            heard.append(leaf.receive())
    except Ended as ended:
        heard.append(ended.args[0])
    return heard


def check(draw: random.Random) -> None:
    stream = make_stream(draw)
    expected = decode(stream)
    # As it may come, and as it nearly always does: each frame by itself.
    alone = [struct.pack('<IB', len(body), kind) + body for kind, body in expected]
    for pieces in (cut(stream, draw), alone):
        heard = hear([part for piece in pieces for part in (piece[:MAX_PIECE], piece[MAX_PIECE:]) if part])
        if heard != [*expected, 0]:
            told = [(each[0], len(each[1])) if isinstance(each, tuple) else each for each in heard]
            wanted = [(kind, len(body)) for kind, body in expected]
            raise SystemExit(f'pieces of {[len(piece) for piece in pieces]}: expected {wanted} and 0, got {told}')


def main(seconds: float, seed: int) -> None:
    print(f'seed {seed}', flush=True)
    os.dup2(sys.stderr.fileno(), leaf.CHANNEL)  # taken from now on: no socket gets this number by itself
    draw = random.Random(seed)
    end = time.monotonic() + seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        check(draw)
        rounds += 1
    print(f'{rounds} streams')


real_waiter = leaf.waiter
main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().getrandbits(32))
