import os


def f(event):
    """What is in .env and what ol.yaml says is there when the module is loaded; ol.yaml wins."""
    return {name: os.environ.get(name) for name in ('GREETING', 'COLOUR')}
