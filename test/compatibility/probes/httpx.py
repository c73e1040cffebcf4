# /// script
# dependencies = ["httpx"]
# ///
import httpx


async def app(scope, receive, send):
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'a', b'b')]})
    await send({'type': 'http.response.body', 'body': scope['path'].encode()})


async def f(event):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://app') as client:
        response = await client.get('/path')
    assert response.text == '/path' and response.headers['a'] == 'b'
    return 'request to an ASGI application'
