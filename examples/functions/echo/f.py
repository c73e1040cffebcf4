def f(event):
    """Answers what it gets: any JSON, or bytes that come as application/octet-stream."""
    return event
