"""A function that is a program, ``f.bin``: the event is its argument, as JSON; what it leaves in the file ``output`` of /tmp is the value."""

import json
import os
from typing import Any, Callable

from . import web

OUTPUT = '/tmp/output'


class ProgramFailed(Exception):
    """It ended with another status than 0, or without an output."""


class Program(web.App):
    def __init__(self, path: str) -> None:
        super().__init__(self.run)
        self.path = path

    def __call__(self, event: Any) -> Any:
        output = self.run(event if isinstance(event, bytes) else json.dumps(event).encode())
        try:
            return json.loads(output)
        except ValueError:
            return output

    def answer(self, request: web.Request, send: web.Send) -> None:
        output = self.run(request.body or b'{}')
        try:
            json.loads(output)
            kind = 'application/json'
        except ValueError:
            kind = 'application/octet-stream'
        answer = web.Answer(send)
        answer.begin(200, [('content-type', kind), ('content-length', str(len(output)))])
        answer.write(output)

    def run(self, argument: bytes) -> bytes:
        try:
            os.unlink(OUTPUT)
        except FileNotFoundError:
            pass
        pid = os.posix_spawn(self.path, [self.path.encode(), argument], os.environ)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            raise ProgramFailed(f'f.bin was ended by signal {-code}' if code < 0 else f'f.bin exited with status {code}')
        try:
            with open(OUTPUT, 'rb') as file:
                return file.read()
        except FileNotFoundError:
            raise ProgramFailed(f'f.bin left no file {OUTPUT}') from None
