"""A leaf: loads a handler, then answers events on descriptor 3 until its end of file.

Frames both ways: length (4 bytes, little-endian, without the header), type (1 byte), payload. The types are those of
protocol.ts, and for a spare's of launch-protocol.ts.
"""

import gc
import json
import marshal
import os
import select
import struct
import sys
import time
import traceback
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import AsyncGeneratorType, CoroutineType, GeneratorType, ModuleType
from typing import Any, Callable, NoReturn, Optional, Sequence

from . import hooks, hygiene, web

CHANNEL = 3
CHUNK = 1 << 16  # below malloc's threshold for mapping memory anew at each read
HANDLER = '/handler'
LOAD, EVENT_JSON, EVENT_BYTES, COMPILE, LIVE_EVENT_JSON, LIVE_EVENT_BYTES = 16, 17, 18, 19, 20, 21
EVENT_HTTP, LIVE_EVENT_HTTP = 15, 22
LOADED, FAILED, RESULT_JSON, RESULT_BYTES, ERROR, CHUNK_JSON, CHUNK_BYTES, CHUNKS_END, COMPILED = 2, 131, 132, 5, 134, 135, 8, 9, 10
POPULATE, POPULATED, PARKED = 25, 26, 139
MAX_TEXT = 64 * 1024
FORKTREE = os.path.dirname(__file__)

# An event comes without white space around it, which a decoder looks for with regular expressions.
scan = json.JSONDecoder().scan_once
encode_ascii = json.JSONEncoder(allow_nan=False, separators=(',', ':')).encode
received = bytearray()
header = struct.Struct('<IB')
# A reader of a Unix socket is also woken when what it wrote is taken; one that polls for input is not.
waiter = select.poll()
waiter.register(CHANNEL, select.POLLIN)


def make_encode() -> Callable[[Any], str]:
    """The encoder of strict JSON, set up once, where ``json`` sets one up for each value."""
    make = getattr(json.encoder, 'c_make_encoder', None)
    if make is None:
        return json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(',', ':')).encode
    base = json.JSONEncoder()
    # Without markers a value that contains itself ends in RecursionError.
    encoder = make(None, base.default, json.encoder.encode_basestring, None, ':', ',', False, False, False)
    return lambda value: ''.join(encoder(value, 0))


encode = make_encode()
is_forked = False
loaded: Optional[Callable[[Any], Any]] = None  # the handler, in sandboxes of a zygote that has loaded it
request_sizes = struct.Struct('<I?')
# What most handlers answer: nothing else is asked about these.
PLAIN_TYPES = frozenset((dict, list, str, int, float, bool, type(None), bytes))


def serve() -> NoReturn:
    """Never returns: what comes above this on the stack belongs to the zygote."""
    try:
        if hygiene.is_starting:  # else it was a spare, which has done that
            hygiene.after_start()
            hygiene.draw_fresh_randomness()
        kind, body = receive()
        if kind == COMPILE:
            compile_files(json.loads(body))
            os._exit(0)
        answer_events(load(*body.decode().split('\0')))
    except BaseException as error:  # a defect of ours, or the handler broke the interpreter
        fail('ProtocolError', error)
    os._exit(1)


def receive() -> tuple[int, bytes]:
    """The next frame; the process ends at the host's end of file."""
    if not received:
        waiter.poll()
        data = os.read(CHANNEL, CHUNK)
        if len(data) >= 5:
            size, kind = header.unpack_from(data)
            if size == len(data) - 5:
                return kind, data[5:]  # one whole frame, as nearly always
        if not data:
            os._exit(0)
        received.extend(data)
    while len(received) < 5:
        read_more()
    size, kind = header.unpack_from(received)
    size += 5
    while len(received) < size:
        read_more()
    body = bytes(received[5:size])
    del received[:size]
    return kind, body


def read_more() -> None:
    data = os.read(CHANNEL, CHUNK)
    if not data:
        os._exit(0)
    received.extend(data)


def send(kind: int, body: bytes = b'') -> None:
    data = header.pack(len(body), kind) + body
    written = os.write(CHANNEL, data)
    while written < len(data):
        data = memoryview(data)[written:]
        written = os.write(CHANNEL, data)


def load(entry: str, *preparation: str) -> Callable[[Any], Any]:
    """Imports the entry module and answers its handler. Whatever is not done here is not paid for by each start."""
    if loaded is None:
        prepare(preparation)
    else:
        gc.enable()
    try:
        hooks.run_after()
        handler = loaded or find_entry(entry)
        if isinstance(handler, web.App):
            handler.start()
    except BaseException as error:
        flush()
        fail('Exited' if isinstance(error, SystemExit) else 'ImportFailed', error, FAILED)
        os._exit(1)
    send(LOADED)
    return handler


def prepare(preparation: Sequence[str]) -> None:
    """Sets variables, ``NAME=value``, and has imports look in folders of the code, ``=folder``, of which the last comes first."""
    gc.enable()
    sys.path.insert(0, HANDLER)
    for each in preparation:
        name, _, value = each.partition('=')
        if name:
            os.environ[name] = value
        else:
            sys.path.insert(1, f'{HANDLER}/{value}')


def find_entry(entry: str) -> Callable[[Any], Any]:
    """What the entry file makes of the function."""
    if entry == PROGRAM_ENTRY:
        from .program import Program

        return Program(f'{HANDLER}/{entry}')
    return find_handler(usual_module if entry == USUAL_ENTRY else make_module(entry))


def find_handler(module: ModuleType) -> Callable[[Any], Any]:
    """An application that the environment names, else ``f``, else an application ``app``."""
    file = str(module.__file__)
    module = run_module(module)
    handler = None if web.is_chosen() else getattr(module, 'f', None)
    if not callable(handler):
        handler = web.find_app(module)
    if handler is None:
        expected = 'expected def f(event), or a WSGI or ASGI application app'
        raise AttributeError(f"{file[len(HANDLER) + 1 :]} defines no function 'f'; {expected}")
    return handler


def run_module(module: ModuleType) -> ModuleType:
    """Runs its byte code, made at deploy, without the import system's search: fewer pages are touched."""
    name = module.__name__
    sys.modules[name] = module
    fd = os.open(module.__cached__, os.O_RDONLY)
    data = os.read(fd, os.fstat(fd).st_size)
    os.close(fd)
    exec(marshal.loads(data[16:]), module.__dict__)
    return sys.modules[name]


def make_module(entry: str) -> ModuleType:
    folder, _, file = entry.rpartition('/')
    name = file[: -len('.py')]
    path = f'{HANDLER}/{entry}'
    cached = f'{HANDLER}/{folder}/__pycache__/{name}.{sys.implementation.cache_tag}.pyc'
    spec = ModuleSpec(name, SourceFileLoader(name, path), origin=path)
    spec.has_location, spec.cached = True, cached
    module = ModuleType(name)
    module.__spec__, module.__loader__, module.__file__, module.__cached__ = spec, spec.loader, path, cached
    return module


# Made in the zygote, for what most functions are.
USUAL_ENTRY, PROGRAM_ENTRY = 'f.py', 'f.bin'
usual_module = make_module(USUAL_ENTRY)


def answer_events(handler: Callable[[Any], Any]) -> NoReturn:
    while True:
        kind, body = receive()
        if kind == POPULATE:
            populate(body)
        else:
            answer_event(handler, kind, body)


def populate(working_set: bytes) -> None:
    """Takes the page faults of earlier sandboxes before an event does."""
    from .layout import native

    started = time.perf_counter()
    count = native.forktree_populate(working_set, len(working_set))
    send(POPULATED, struct.pack('<II', count, int((time.perf_counter() - started) * 1e6)))


def answer_event(handler: Callable[[Any], Any], kind: int, body: bytes) -> None:
    if kind >= LIVE_EVENT_JSON:  # somebody reads along
        buffer_lines()
    try:
        if kind == EVENT_HTTP or kind == LIVE_EVENT_HTTP:
            answer_request(handler, body)
            return
        value = handler(scan(body.decode(), 0)[0] if kind == EVENT_JSON or kind == LIVE_EVENT_JSON else body)
        if type(value) in PLAIN_TYPES:
            answer_value(value)
        else:
            answer(value)
    except SystemExit as error:
        leave_if_forked()
        flush()
        fail('Exited', error)
        os._exit(exit_status(error.code))
    except BaseException as error:
        leave_if_forked()
        flush()
        fail('HandlerError', error)


def answer_request(handler: Callable[[Any], Any], frame: bytes) -> None:
    """Two sizes, a request's head, and its body, which is the event unless the handler is a web application."""
    size, is_bytes = request_sizes.unpack_from(frame)
    size += request_sizes.size
    if isinstance(handler, web.App):
        handler.answer(web.Request(frame[request_sizes.size : size], frame[size:]), send)
        end_chunks()
        return
    try:
        event = frame[size:] if is_bytes else web.decode_event(frame[size:])
    except web.BadRequest as error:
        web.refuse(error, send)
        end_chunks()
        return
    answer(handler(event))


def note_fork() -> None:
    global is_forked
    is_forked = not hygiene.is_starting


os.register_at_fork(after_in_child=note_fork)


def leave_if_forked() -> None:
    """A handler that forked and whose child came back here: only the first process answers."""
    if is_forked:
        flush()
        os._exit(0)


def answer(value: Any) -> None:
    if isinstance(value, (GeneratorType, AsyncGeneratorType)):
        answer_chunks(value)
    elif isinstance(value, CoroutineType) or hasattr(value, '__await__'):
        import asyncio

        answer_value(asyncio.run(complete(value)))
    else:
        answer_value(value)


def answer_value(value: Any) -> None:
    if is_forked:
        leave_if_forked()
    flush()
    send_value(value, RESULT_JSON, RESULT_BYTES)


def answer_chunks(value: Any) -> None:
    if isinstance(value, GeneratorType):
        for chunk in value:
            send_value(chunk, CHUNK_JSON, CHUNK_BYTES)
    else:
        import asyncio

        asyncio.run(complete(value))
    end_chunks()


def end_chunks() -> None:
    leave_if_forked()
    flush()
    send(CHUNKS_END)


async def complete(value: Any) -> Any:
    if not isinstance(value, AsyncGeneratorType):
        return await value
    async for chunk in value:
        send_value(chunk, CHUNK_JSON, CHUNK_BYTES)
    return None


class NotSerializable(Exception):
    """The handler's value is not strict JSON."""


def send_value(value: Any, json_kind: int, bytes_kind: int) -> None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        send(bytes_kind, bytes(value))
        return
    try:
        text = encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise NotSerializable(explain(value) or str(error)) from None
    try:
        body = text.encode()
    except UnicodeEncodeError:  # lone surrogates: JSON can escape them, UTF-8 can't hold them
        body = encode_ascii(value).encode()
    send(json_kind, body)


def explain(value: Any, path: str = '$', parents: tuple[int, ...] = ()) -> Optional[str]:
    """Where the value stops being strict JSON, and what to do about it; None if it does not."""
    if value is None or isinstance(value, (bool, int, str)):
        return None
    if isinstance(value, float):
        return None if value - value == 0 else f'{path} is {value!r}, which JSON lacks; use None or a string instead'
    if id(value) in parents or len(parents) > 500:
        return f'{path} contains itself or is nested too deeply'
    if isinstance(value, dict):
        for key, item in value.items():
            if not (key is None or isinstance(key, (str, int, float, bool))):
                return f'{path} has a key of type {type_name(key)}; use str(key)'
            found = explain(item, f'{path}[{key!r}]', (*parents, id(value)))
            if found:
                return found
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            found = explain(item, f'{path}[{index}]', (*parents, id(value)))
            if found:
                return found
        return None
    return f'{path} is of type {type_name(value)}, which is not JSON; {remedy(value)}'


def type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__name__}'


def remedy(value: Any) -> str:
    module = type(value).__module__.partition('.')[0]
    if module == 'numpy':
        return 'use .tolist()' if getattr(value, 'ndim', 0) else 'use .item()'
    if module == 'pandas':
        return "use .to_dict() or, for a time, .isoformat()"
    if isinstance(value, (set, frozenset)):
        return 'use sorted(value) or list(value)'
    return 'convert it to dict, list, str, int, float, bool or None'


def flush() -> None:
    """A handler may have closed, replaced or deleted the streams: then they are left alone."""
    try:
        sys.stdout.flush()
    except Exception:
        pass
    try:
        sys.stderr.flush()
    except Exception:
        pass


def buffer_lines() -> None:
    for name in ('stdout', 'stderr'):
        try:
            getattr(sys, name).reconfigure(line_buffering=True)
        except Exception:
            pass


def exit_status(code: object) -> int:
    return code & 255 if isinstance(code, int) else 0 if code is None else 1


def fail(code: str, error: BaseException, kind: int = ERROR) -> None:
    if isinstance(error, NotSerializable):
        code = 'ResultNotSerializable'
    report = {'code': code, 'type': type_name(error), 'message': text_of(error), 'traceback': traceback_of(error)}
    if isinstance(error, SystemExit):
        report['status'] = exit_status(error.code)
    if isinstance(error, SyntaxError):
        report['line'] = error.lineno
    send(kind, encode_ascii(report).encode())


def text_of(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except BaseException:
        return '<the exception could not be turned into text>'


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, from the handler's first frame on."""
    frame = error.__traceback__
    while frame is not None and os.path.dirname(frame.tb_frame.f_code.co_filename) == FORKTREE:
        frame = frame.tb_next
    try:
        return ''.join(traceback.format_exception(type(error), error, frame))[-MAX_TEXT:]
    except BaseException:
        return '<the traceback could not be turned into text>\n'


def compile_files(files: list[str]) -> None:
    """Compiles each file below /handler; answers the byte code of each, or the first error.

    Byte code carries an unchecked hash, so that neither times nor a read-only mount matter later.
    """
    from importlib._bootstrap_external import _code_to_hash_pyc

    for file in files:
        path = f'{HANDLER}/{file}'
        try:
            with open(path, 'rb') as source:
                code = compile(source.read(), path, 'exec', dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            report = {'file': file, 'line': getattr(error, 'lineno', None), 'message': text_of(error)}
            send(FAILED, encode_ascii(report).encode())
            return
        send(CHUNK_BYTES, bytes(_code_to_hash_pyc(code, bytes(8), False)))
    send(COMPILED)
