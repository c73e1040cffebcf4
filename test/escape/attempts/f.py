"""Runs one attempt to get out of a sandbox, and answers in a word what came of it."""

import bombs  # noqa: F401
import descriptors  # noqa: F401
import files  # noqa: F401
import frames  # noqa: F401
import kernel  # noqa: F401
import mounts  # noqa: F401
import namespaces  # noqa: F401
import network  # noqa: F401
import privileges  # noqa: F401
import processes  # noqa: F401
import raw
import siblings  # noqa: F401


@raw.attempt('say which attempts there are')
def names(host):
    return list(raw.attempts)


def run(name, host):
    try:
        answer = raw.attempts[name](host)
    except OSError as error:
        return raw.word(error)
    return 'done' if answer is None else answer


def f(event):
    """An attempt that may end its sandbox comes alone; its answer is all that the handler answers."""
    host = event.get('host')
    return run(event['alone'], host) if 'alone' in event else {name: run(name, host) for name in event['attempts']}
