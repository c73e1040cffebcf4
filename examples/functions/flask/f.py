from flask import Flask, request

app = Flask(__name__)


@app.get('/')
def index():
    return f'{request.script_root} says hello\n'


@app.get('/square/<int:number>')
def square(number):
    return {'square': number**2}


@app.post('/upper')
def upper():
    return request.get_data(as_text=True).upper(), 201, {'X-Kind': 'upper'}
