import time


def f(event):
    """Each chunk leaves as it is yielded: a line of JSON."""
    for number in range(event.get('count', 3)):
        yield {'number': number, 'at': time.time()}
        time.sleep(event.get('pause', 0.1))
