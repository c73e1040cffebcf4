# /// script
# dependencies = ["aiohttp"]
# ///
import aiohttp
from aiohttp import web


async def f(event):
    async def handle(request):
        return web.json_response({'path': request.path})

    app = web.Application()
    app.router.add_get('/a', handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, '127.0.0.1', 8080)
    await site.start()
    async with aiohttp.ClientSession() as session, session.get('http://127.0.0.1:8080/a') as response:
        assert await response.json() == {'path': '/a'}
    await runner.cleanup()
    return 'request to a server of its own'
