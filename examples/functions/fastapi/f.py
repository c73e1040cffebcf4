import asyncio
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app):
    """Done once in each sandbox, before its first request."""
    app.state.greeting = 'hello'
    yield


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    item: str
    count: int = 1


@app.get('/')
async def index():
    await asyncio.sleep(0)
    return {'greeting': app.state.greeting}


@app.post('/orders', status_code=201)
async def order(order: Order):
    return {'item': order.item, 'count': order.count}


@app.get('/ticks')
async def ticks():
    async def lines():
        for tick in range(3):
            yield f'tick {tick}\n'
            await asyncio.sleep(0.01)

    return StreamingResponse(lines(), media_type='text/plain')
