# /// script
# dependencies = ["fastapi", "httpx"]
# ///
import fastapi
from fastapi.testclient import TestClient

app = fastapi.FastAPI()


@app.get('/items/{number}')
def item(number: int, text: str = ''):
    return {'number': number, 'text': text}


def f(event):
    client = TestClient(app)
    assert client.get('/items/3?text=a').json() == {'number': 3, 'text': 'a'}
    assert client.get('/items/x').status_code == 422
    assert '/items/{number}' in client.get('/openapi.json').json()['paths']
    return 'routes, validation, OpenAPI'
