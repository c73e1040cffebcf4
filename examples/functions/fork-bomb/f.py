import os


def f(event):
    """Starts processes until its sandbox has no more, and says how many it got."""
    started = 0
    try:
        while True:
            if os.fork() == 0:
                os.read(os.pipe()[0], 1)  # waits until the sandbox ends
            started += 1
    except OSError as error:
        return {'started': started, 'refused': str(error)}
