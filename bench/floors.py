"""The floors: what a plain CPython takes for the same, in a process without any isolation.

    floors.py GUEST_DIR NATIVE_DIR MODULES [SOCKET]

Reads one word a line on stdin and answers one line of JSON each:
    fork    os.fork() until the child answers, in milliseconds, measured inside this process
    churn N os.fork(), end and wait, N times, in milliseconds
    call    what first_call.py does, in milliseconds
    exit    ends
With SOCKET it also connects there and sends back whatever it gets.
"""

import gc

gc.disable()

import ctypes
import importlib
import json
import marshal  # noqa: F401  (what a zygote imports, so that both processes are equally large)
import os
import socket
import sys
import threading
import time
import traceback  # noqa: F401

guest, native, modules = sys.argv[1:4]
sys.path.insert(0, os.path.dirname(guest))
hygiene = importlib.import_module(f'{os.path.basename(guest)}.hygiene')
del sys.path[0]
for module in filter(None, modules.split(',')):
    importlib.import_module(module)


def echo(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        while data := client.recv(65536):
            client.sendall(data)


def fork() -> float:
    reads, writes = os.pipe()
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.write(writes, b'x')
        os._exit(0)
    os.read(reads, 1)
    ended = time.perf_counter()
    os.waitpid(pid, 0)
    os.close(reads)
    os.close(writes)
    return (ended - started) * 1000


def churn(count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return (time.perf_counter() - started) * 1000


def call() -> float:
    return importlib.import_module('first_call').f(None)['ms']


if len(sys.argv) > 4:
    threading.Thread(target=echo, args=(sys.argv[4],), daemon=True).start()
else:
    library = ctypes.CDLL(f'{native}/guest.node')
    libc = ctypes.CDLL(None)
    hygiene.settle(
        lambda start, size: library.forktree_collapse(ctypes.c_ulong(start), ctypes.c_ulong(size)),
        getattr(libc, 'malloc_trim', lambda pad: 0),
    )
print(json.dumps('ready'), flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    if word == 'exit':
        break
    answer = {'fork': fork, 'churn': churn, 'call': call}[word](*map(int, numbers))
    print(json.dumps(answer), flush=True)
