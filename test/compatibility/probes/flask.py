# /// script
# dependencies = ["flask"]
# ///
import flask

app = flask.Flask(__name__)


@app.get('/<name>')
def page(name):
    return flask.render_template_string('<p>{{ name }}</p>', name=name)


def f(event):
    assert app.test_client().get('/<b>').text == '<p>&lt;b&gt;</p>'
    return 'route, template'
