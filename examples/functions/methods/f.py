def f(event):
    return 'GET and PUT reach it, other methods are answered with 405'
