"""A function that is a web application, WSGI (PEP 3333) or ASGI 3.0: an HTTP request in, the parts of an HTTP answer out."""

import io
import json
import os
import sys
from typing import Any, Callable, Iterable, Optional, Union

# As in protocol.ts.
CHUNK_BYTES, RESPONSE_HEAD = 8, 140
PIECE = 1 << 18  # of a body: what is sent at once
CO_COROUTINE = 0x80  # of a code object's flags, see the module inspect
WSGI_ENTRY, ASGI_ENTRY = 'OL_WSGI_ENTRY', 'OL_ASGI_ENTRY'

Send = Callable[[int, bytes], None]
Headers = Iterable[tuple[str, str]]


class BadRequest(Exception):
    """What a client sent is not what the function takes."""


class Request:
    """As encodeRequest in http.ts has encoded it."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.method, self.root, self.path, self.query, self.scheme, client, headers = json.loads(head)
        self.client: Optional[tuple[str, int]] = None if client is None else (client[0], client[1])
        self.headers: list[tuple[str, str]] = list(zip(headers[::2], headers[1::2]))
        self.body = body


class Answer:
    """Sends an answer in its order: its head once, before any of its body."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.is_sent = False
        self.head: Optional[tuple[int, list[tuple[str, str]]]] = None

    def begin(self, status: int, headers: Headers) -> None:
        checked = [(name, value) for name, value in headers]
        for name, value in checked:
            if not name or any(each in name + value for each in '\r\n\0'):
                raise ValueError(f'a header field is {name!r}: {value!r}, expected text of one line')
        self.head = status, checked

    def note_length(self, size: int) -> None:
        """The whole body is known: whoever reads it is told how long it is."""
        if self.head is not None and self.head[0] >= 200 and self.head[0] not in (204, 304):
            if not any(name.lower() == 'content-length' for name, _ in self.head[1]):
                self.head[1].append(('content-length', str(size)))

    def send_head(self) -> None:
        if self.is_sent:
            return
        if self.head is None:
            raise RuntimeError('the application has not begun its answer with a status')
        self.is_sent = True
        self.send(RESPONSE_HEAD, json.dumps(self.head).encode())

    def write(self, data: Union[bytes, bytearray, memoryview]) -> None:
        self.send_head()
        if len(data) <= PIECE:
            self.send(CHUNK_BYTES, data)  # type: ignore[arg-type]
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            self.send(CHUNK_BYTES, view[start : start + PIECE])  # type: ignore[arg-type]


class App:
    """Stands in the place of a function's ``f``."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application

    def __call__(self, event: Any) -> Any:
        raise TypeError('the function is a web application: it takes HTTP requests, and no events')

    def start(self) -> None:
        """Called once, in the sandbox."""

    def answer(self, request: Request, send: Send) -> None:
        raise NotImplementedError


class WsgiApp(App):
    def answer(self, request: Request, send: Send) -> None:
        answer = Answer(send)

        def start_response(status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], None]:
            if exc_info is not None and answer.is_sent:
                raise exc_info[1].with_traceback(exc_info[2])
            if exc_info is None and answer.head is not None:
                raise RuntimeError('start_response was called twice')
            answer.begin(int(status.split(' ', 1)[0]), headers)
            return answer.write

        chunks = self.application(make_environ(request), start_response)
        try:
            if isinstance(chunks, (list, tuple)):
                answer.note_length(sum(map(len, chunks)))
            for chunk in chunks:
                if chunk:
                    answer.write(chunk)
            answer.send_head()
        finally:
            close = getattr(chunks, 'close', None)
            if close is not None:
                close()


def make_environ(request: Request) -> dict[str, Any]:
    from urllib.parse import unquote_to_bytes

    environ: dict[str, Any] = {
        'REQUEST_METHOD': request.method,
        'SCRIPT_NAME': unquote_to_bytes(request.root).decode('latin-1'),
        'PATH_INFO': unquote_to_bytes(request.path or '/').decode('latin-1'),
        'QUERY_STRING': request.query,
        'SERVER_NAME': 'localhost',
        'SERVER_PORT': '443' if request.scheme == 'https' else '80',
        'SERVER_PROTOCOL': 'HTTP/1.1',
        'CONTENT_LENGTH': str(len(request.body)),
        'wsgi.version': (1, 0),
        'wsgi.url_scheme': request.scheme,
        'wsgi.input': io.BytesIO(request.body),
        'wsgi.errors': sys.stderr,
        'wsgi.multithread': False,
        'wsgi.multiprocess': False,
        'wsgi.run_once': False,
        'wsgi.input_terminated': True,
    }
    if request.client is not None:
        environ['REMOTE_ADDR'], environ['REMOTE_PORT'] = request.client[0], str(request.client[1])
    for name, value in request.headers:
        if '_' in name:
            continue  # else it could be taken for a field that a proxy sets
        name = name.upper().replace('-', '_')
        if name == 'CONTENT_TYPE':
            environ[name] = value
        elif name == 'HOST':
            environ['SERVER_NAME'], _, port = value.rpartition(':') if value[-1:].isdigit() and ':' in value else (value, '', '')
            environ['SERVER_PORT'] = port or environ['SERVER_PORT']
            environ['HTTP_HOST'] = value
        elif name not in ('CONTENT_LENGTH', 'TRANSFER_ENCODING'):
            name = f'HTTP_{name}'
            before = environ.get(name)
            environ[name] = value if before is None else f'{before}{"; " if name == "HTTP_COOKIE" else ","}{value}'
    return environ


class AsgiApp(App):
    """Its event loop lives as long as the sandbox, and runs while there is a request."""

    loop: Any = None

    def start(self) -> None:
        import asyncio

        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.state: dict[str, Any] = {}
        self.loop.run_until_complete(self.start_lifespan())

    async def start_lifespan(self) -> None:
        """The application's start-up is part of loading it. One that knows of none raises, or returns."""
        started = self.loop.create_future()
        messages = iter([{'type': 'lifespan.startup'}])

        async def receive() -> Any:
            return next(messages, None) or await self.loop.create_future()

        async def send(message: Any) -> None:
            if message['type'] == 'lifespan.startup.complete':
                settle(started)
            elif message['type'] == 'lifespan.startup.failed':
                settle(started, RuntimeError(f'the application’s start-up failed: {message.get("message", "")}'))

        async def run() -> None:
            try:
                await self.application({'type': 'lifespan', 'asgi': VERSIONS, 'state': self.state}, receive, send)
            except Exception:
                pass
            finally:
                settle(started)

        self.lifespan = self.loop.create_task(run())  # held, else it may be collected
        await started

    def answer(self, request: Request, send: Send) -> None:
        self.loop.run_until_complete(self.respond(request, Answer(send)))

    async def respond(self, request: Request, answer: Answer) -> None:
        requests = iter([{'type': 'http.request', 'body': request.body, 'more_body': False}])

        async def receive() -> Any:
            # Nobody hears of a client that leaves: the sandbox is ended then.
            return next(requests, None) or await self.loop.create_future()

        async def send(message: Any) -> None:
            if message['type'] == 'http.response.start':
                answer.begin(message['status'], [(to_text(name), to_text(value)) for name, value in message.get('headers', ())])
            elif message['type'] == 'http.response.body' and message.get('body'):
                answer.write(message['body'])

        await self.application(self.make_scope(request), receive, send)
        answer.send_head()

    def make_scope(self, request: Request) -> dict[str, Any]:
        from urllib.parse import unquote

        path = request.root + (request.path or '/')
        return {
            'type': 'http',
            'asgi': VERSIONS,
            'http_version': '1.1',
            'method': request.method,
            'scheme': request.scheme,
            'path': unquote(path),
            'raw_path': path.encode('latin-1'),
            'query_string': request.query.encode('latin-1'),
            'root_path': unquote(request.root),
            'headers': [(name.lower().encode('latin-1'), value.encode('latin-1')) for name, value in request.headers],
            'client': request.client,
            'server': None,
            'state': self.state.copy(),
            'extensions': {},
        }


VERSIONS = {'version': '3.0', 'spec_version': '2.3'}


def settle(future: Any, error: Optional[Exception] = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def to_text(data: bytes) -> str:
    return bytes(data).decode('latin-1')


def is_chosen() -> bool:
    """Whether the function's environment names the application."""
    return WSGI_ENTRY in os.environ or ASGI_ENTRY in os.environ


def find_app(module: Any) -> Optional[App]:
    """The application that the environment names, else one that is called ``app``, if there is one."""
    for variable, kind in ((WSGI_ENTRY, WsgiApp), (ASGI_ENTRY, AsgiApp)):
        name = os.environ.get(variable)
        if name is not None:
            application = getattr(module, name, None)
            if not callable(application):
                raise AttributeError(f'{module.__name__}.py defines no {name!r}, which {variable} names')
            return kind(application)
    application = getattr(module, 'app', None)
    if not callable(application):
        return None
    return AsgiApp(application) if is_async(application) else WsgiApp(application)


def is_async(application: Any) -> bool:
    function = application
    if not hasattr(function, '__code__') and not hasattr(function, '__func__'):
        function = getattr(type(application), '__call__', None)
    code = getattr(getattr(function, '__func__', function), '__code__', None)
    return code is not None and code.co_flags & CO_COROUTINE != 0


def decode_event(body: bytes) -> Any:
    """The event in a body: strict JSON, or nothing at all, which is an empty object."""
    if not body:
        return {}
    try:
        text = body.decode()
        try:
            event, end = scan(text, 0)
            if end == len(text):
                return event
        except StopIteration:
            pass
        return strict.decode(text)  # there is white space around it, or this says what is wrong
    except (ValueError, RecursionError) as error:
        raise BadRequest(f'expected a body that is JSON: {error}') from None


def refuse_constant(name: str) -> Any:
    raise ValueError(f'{name} is none of its numbers')


strict = json.JSONDecoder(parse_constant=refuse_constant)
scan = strict.scan_once


def refuse(error: BadRequest, send: Send) -> None:
    text = f'{error}\n'.encode()
    answer = Answer(send)
    answer.begin(400, [('content-type', 'text/plain; charset=utf-8'), ('content-length', str(len(text)))])
    answer.write(text)
