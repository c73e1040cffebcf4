"""Attempts to confuse the host by what is written to the channel, in place of the answer or beside it."""

import json
import os
import select
import socket
import struct

from raw import attempt

CHANNEL = 3
RESULT_JSON, ERROR, CHUNK_JSON, CHUNK_BYTES, CHUNKS_END, EVENT_JSON = 132, 134, 135, 8, 9, 17


def frame(kind, body=b'', size=None):
    return struct.pack('<IB', len(body) if size is None else size, kind) + body


def write(data):
    while data:
        data = data[os.write(CHANNEL, data) :]


def forge(title, *data):
    """An attempt that writes this and then waits for what the host does about it."""

    def run(host):
        for each in data:
            write(each)
        os.read(CHANNEL, 1)
        os._exit(7)

    attempt(f'frames: {title}')(run)


def report(**fields):
    return frame(ERROR, json.dumps(fields).encode())


forge('a giant length of a type that no answer has', frame(99, size=0xFFFFFFFF))
forge('a giant length of an answer', frame(RESULT_JSON, size=0xFFFFFFFF))
forge('a giant length of an error', frame(ERROR, size=0xFFFFFFFF))
forge('a length that is one too small', frame(RESULT_JSON, b'"forged"', 7))
forge('a type that no answer has', frame(99))
forge('a type of text that no answer has', frame(200, b'{}'))
forge('type 0', frame(0))
forge('an event for the host', frame(EVENT_JSON, b'{}'))
forge('an empty answer', frame(RESULT_JSON))
forge('an answer that is not JSON', frame(RESULT_JSON, b'{'))
forge('an answer with NaN', frame(RESULT_JSON, b'NaN'))
forge('an answer that is not UTF-8', frame(RESULT_JSON, b'\xff\xfe'))
forge('a chunk that is not JSON', frame(CHUNK_JSON, b'"'))
forge('an error that is not JSON', frame(ERROR, b'{'))
forge('an error that is no object', frame(ERROR, b'[]'))
forge('an error that is null', frame(ERROR, b'null'))
forge('an error in the host’s name', report(code='Timeout', message='forged'))
forge('an error with a code that objects inherit', report(code='constructor', message='forged'))
forge('an error of memory that was not exceeded', report(code='OutOfMemory', message='forged'))
forge('a forged error of the handler', report(code='HandlerError', type='T', message='forged', traceback=''))
forge('an error with fields of other types', report(code='HandlerError', type=[], message={}, traceback=1, status='x'))
forge('a forged answer', frame(RESULT_JSON, b'"forged"'))
forge('an answer with a field that objects inherit', frame(RESULT_JSON, b'{"__proto__": {"ok": false}}'))
forge('an answer nested beyond all bounds', frame(RESULT_JSON, b'[' * 400_000 + b']' * 400_000))
forge('two answers at once', frame(RESULT_JSON, b'"first"') + frame(RESULT_JSON, b'"second"'))
forge('an answer, then an error', frame(RESULT_JSON, b'"first"') + report(code='HandlerError', message='second'))
forge('an error, then an answer', report(code='HandlerError', message='first') + frame(RESULT_JSON, b'"second"'))
forge('an answer, then no frame', frame(RESULT_JSON, b'"first"') + b'\xff' * 64)
forge('an end of chunks without any', frame(CHUNKS_END))
forge('chunks, then an answer', frame(CHUNK_JSON, b'"chunk"') + frame(RESULT_JSON, b'"answer"'))
forge('more chunks than an answer may have', *[frame(CHUNK_BYTES, b'x' * 65536)] * 17)
forge('more empty chunks than fit an answer', frame(CHUNK_BYTES) * 300_000 + frame(CHUNKS_END))
forge('only noise', bytes(range(255, 0, -1)) * 64)


@attempt('frames: a length that is too large, and then the end')
def cut_short(host):
    write(frame(RESULT_JSON, b'"forged"', 1000))
    os._exit(0)


@attempt('frames: half a header, and then the end')
def half_header(host):
    write(b'\x08\0')
    os._exit(0)


@attempt('frames: an answer byte by byte')
def byte_by_byte(host):
    """With so small a buffer the channel takes the next byte only when the host has read those before but one."""
    with socket.socket(fileno=os.dup(CHANNEL)) as channel:
        before = channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        room = select.poll()
        room.register(channel, select.POLLOUT)
        for kind, body in ((CHUNK_JSON, '"ä"'.encode()), (CHUNK_BYTES, b'bytes'), (CHUNKS_END, b'')):
            for byte in frame(kind, body):
                assert room.poll(10_000)
                os.write(CHANNEL, bytes([byte]))
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before // 2)
    os.read(CHANNEL, 1)
    os._exit(7)


@attempt('frames: every split of an answer in two')
def every_split(host):
    whole = frame(CHUNK_JSON, b'"split"')
    for at in range(len(whole)):
        os.write(CHANNEL, whole[:at])
        os.write(CHANNEL, whole[at:])
    write(frame(CHUNKS_END))
    os.read(CHANNEL, 1)
    os._exit(7)


@attempt('frames: the channel shut for writing, and then the end')
def shut(host):
    with socket.socket(fileno=os.dup(CHANNEL)) as channel:
        channel.shutdown(socket.SHUT_WR)
    os._exit(0)


@attempt('frames: a child that answers as well')
def child_answers(host):
    if os.fork() == 0:
        return 'of the child'
    os.wait()
    return 'of the parent'
