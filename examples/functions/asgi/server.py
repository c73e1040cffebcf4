async def application(scope, receive, send):
    """A bare ASGI application; it knows of no lifespan."""
    assert scope['type'] == 'http'
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-type', b'text/plain')]})
    await send({'type': 'http.response.body', 'body': f'{scope["method"]} {scope["path"]}\n'.encode()})
