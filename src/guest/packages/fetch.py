"""
Downloads files in a sandbox that has the host's network.

One request a line on stdin, until it ends: {"id": …, "url": …, "authorization": …, "limitBytes": …, "sizeBytes": …}. The
file of a request is /downloads/ID. What becomes of it is told on stderr, one object a line: {"id": …, "bytes": …} while it
comes, then {"id": …, "done": true} or {"id": …, "failed": "why"}.
"""

import http.client
import json
import queue
import sys
import threading
import time
import urllib.error

THREADS = 8
CHUNK = 256 * 1024
TELL_SECONDS = 0.2
FIRST_PAUSE_SECONDS = 0.5
FOLDER = '/downloads'

lock = threading.Lock()


class Refused(Exception):
    """Trying again would not help."""


def tell(**fields):
    with lock:
        print(json.dumps(fields), file=sys.stderr, flush=True)


def open_file(request, stall_seconds):
    try:
        # Identity: the hash is that of the file as it is stored.
        return open_url(request['url'], request.get('authorization'), stall_seconds, **{'Accept-Encoding': 'identity'})
    except urllib.error.HTTPError as error:
        if error.code in (408, 425, 429) or error.code >= 500:
            raise
        raise Refused(f'the server answered {error.code} {error.reason}') from None


def copy(answer, request):
    size, limit = request.get('sizeBytes'), request['limitBytes']
    promised = answer.headers.get('Content-Length')
    received, told = 0, time.monotonic()
    with open(f"{FOLDER}/{request['id']}", 'wb') as file:
        while True:
            chunk = answer.read1(CHUNK)
            if not chunk:
                break
            received += len(chunk)
            if received > limit:
                raise Refused(f'the server sent more than {limit} bytes')
            file.write(chunk)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                tell(id=request['id'], bytes=received)
    expected = size if size is not None else int(promised) if promised and promised.isdigit() else received
    if received != expected:
        raise OSError(f'the connection ended after {received} of {expected} bytes')


def download(request, attempts, stall_seconds):
    for attempt in range(attempts):
        if attempt:
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            with open_file(request, stall_seconds) as answer:
                copy(answer, request)
            return tell(id=request['id'], done=True)
        except Refused as error:
            return tell(id=request['id'], failed=str(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = str(getattr(error, 'reason', None) or error) or type(error).__name__
    tell(id=request['id'], failed=f'{why} (tried {attempts} times)')


def work(requests, attempts, stall_seconds):
    while (request := requests.get()) is not None:
        download(request, attempts, stall_seconds)


def main():
    attempts, stall_seconds = int(sys.argv[1]), float(sys.argv[2])
    requests = queue.SimpleQueue()
    threads = []
    for line in sys.stdin:
        requests.put(json.loads(line))
        if len(threads) < THREADS:
            thread = threading.Thread(target=work, args=(requests, attempts, stall_seconds))
            thread.start()
            threads.append(thread)
    for _ in threads:
        requests.put(None)
    for thread in threads:
        thread.join()


main()
