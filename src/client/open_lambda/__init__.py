"""Calls functions of a forktree worker, with the names that OpenLambda's client has.

>>> from open_lambda import OpenLambda
>>> OpenLambda('localhost:5000').run('echo', {'a': 1})
{'a': 1}
"""

import json as _json
from http.client import HTTPConnection
from typing import Any, Optional
from urllib.parse import quote

__all__ = ['OpenLambda', 'OpenLambdaError']


class OpenLambdaError(Exception):
    """The worker answered with another status than 200."""

    def __init__(self, status: int, body: str, code: Optional[str]) -> None:
        super().__init__(f'status {status}: {body.strip()}')
        self.status = status
        self.body = body
        #: The worker's code of the error, such as ``Timeout``; None where it sends none.
        self.code = code


class OpenLambda:
    """A worker at `address`, ``host:port``. Each call has a connection of its own, so that threads can share a client."""

    def __init__(self, address: str = 'localhost:5000', token: Optional[str] = None) -> None:
        self.address = address
        self.token = token

    def run(self, name: str, args: Any, json: bool = True, timeout: float = 60) -> Any:
        """Calls a function with `args` as its event.

        Answers its value; with ``json=False`` the body of the answer as text. Raises :class:`OpenLambdaError` when it fails,
        and ``TimeoutError`` after `timeout` seconds without an answer.
        """
        body = self._send('POST', f'/run/{quote(name, safe="")}', args, timeout)
        return _json.loads(body) if json else body

    def create(self, args: Any) -> str:
        """Makes a sandbox, of a worker in the mode ``sock``; answers its id."""
        return self._send('POST', '/create', args).strip()

    def destroy(self, sandbox_id: str) -> str:
        """Ends a sandbox that :meth:`create` has made."""
        return self._send('POST', f'/destroy/{quote(sandbox_id, safe="")}')

    def pause(self, sandbox_id: str) -> str:
        """Stops all that runs in a sandbox, until :meth:`unpause`."""
        return self._send('POST', f'/pause/{quote(sandbox_id, safe="")}')

    def unpause(self, sandbox_id: str) -> str:
        """Lets a paused sandbox go on."""
        return self._send('POST', f'/unpause/{quote(sandbox_id, safe="")}')

    def get_statistics(self) -> Any:
        """The worker's counters, by name."""
        return _json.loads(self._send('GET', '/stats'))

    def check_status(self) -> str:
        """``ready``, or an exception."""
        return self._send('GET', '/status').strip()

    def _send(self, method: str, path: str, args: Any = None, timeout: float = 60) -> str:
        connection = HTTPConnection(self.address, timeout=timeout)
        headers = {'content-type': 'application/json'}
        if self.token is not None:
            headers['authorization'] = f'Bearer {self.token}'
        try:
            connection.request(method, path, None if method == 'GET' else _json.dumps(args), headers)
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise OpenLambdaError(response.status, body, response.getheader('x-forktree-error'))
        return body
