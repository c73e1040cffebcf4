def f(event):
    """Says hello to whom the event names."""
    return f'hello, {event.get("name", "world")}'
