def application(environ, start_response):
    """A bare WSGI application, under another name and in another file than usual: ol.yaml names both."""
    start_response('200 OK', [('Content-Type', 'text/plain')])
    yield f'{environ["REQUEST_METHOD"]} {environ["PATH_INFO"]}\n'.encode()
