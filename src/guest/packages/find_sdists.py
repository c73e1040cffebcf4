"""
Finds the source distributions of a project, in a sandbox that has the host's network.

Reads {"name", "indexUrls", "pages", "firstOnly", "authorizations"} from stdin; writes {"files": [{"file", "url", "sha256",
"sizeBytes"}, …]} to stdout. For each version it makes a wheel in /stubs that has nothing but a name and a version, so that
a resolver can choose among them as it does among wheels. It is tagged as what an interpreter prefers least.
"""

import html.parser
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import zipfile

ACCEPT = 'application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1'
ENDINGS = ('.tar.gz', '.zip', '.tgz', '.tar.bz2', '.tar.xz')
TIMEOUT_SECONDS = 30
MAX_PAGE_BYTES = 64 << 20
STUBS = '/stubs'


class Links(html.parser.HTMLParser):
    """The links of a page, see PEP 503."""

    def __init__(self, base):
        super().__init__()
        self.base, self.files = base, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == 'base' and attributes.get('href'):
            self.base = urllib.parse.urljoin(self.base, attributes['href'])
        if tag == 'a' and attributes.get('href'):
            url, _, fragment = urllib.parse.urljoin(self.base, attributes['href']).partition('#')
            sha256 = fragment[len('sha256=') :] if fragment.startswith('sha256=') else None
            python = attributes.get('data-requires-python')
            self.files.append((url, sha256, None, python, 'data-yanked' in attributes))


def normalise(name):
    return re.sub('[-_.]+', '-', name).lower()


def version_of(file, name):
    """What follows the name; before PEP 625 names were written in any way, dashes included."""
    stem = next((file[: -len(ending)] for ending in ENDINGS if file.lower().endswith(ending)), '')
    for dash in re.finditer('-', stem):
        if normalise(stem[: dash.start()]) == name:
            return stem[dash.end() :]
    return None


def read_page(url, authorization):
    with open_url(url, authorization, TIMEOUT_SECONDS, Accept=ACCEPT) as answer:
        text = answer.read(MAX_PAGE_BYTES).decode('utf-8', 'replace')
        base, is_json = answer.url, 'json' in (answer.headers.get('Content-Type') or '')
    if not is_json:
        links = Links(base)
        links.feed(text)
        return links.files
    return [
        (
            urllib.parse.urljoin(base, each['url']),
            (each.get('hashes') or {}).get('sha256'),
            each.get('size'),
            each.get('requires-python'),
            bool(each.get('yanked')),
        )
        for each in json.loads(text)['files']
    ]


def read_folder(folder):
    paths = [os.path.join(folder, file) for file in sorted(os.listdir(folder))]
    return [(f'file://{urllib.parse.quote(path)}', None, None, None, False) for path in paths]


def pages(asked):
    """The files of each place, in the order of the places."""
    for url in asked['indexUrls']:
        address = f"{url.rstrip('/')}/{asked['name']}/"
        if address.startswith('file:'):
            address += 'index.html'
        try:
            yield read_page(address, asked['authorizations'].get(url))
        except (urllib.error.HTTPError, FileNotFoundError) as error:
            if getattr(error, 'code', 404) not in (401, 403, 404, 410):
                raise
        except urllib.error.URLError as error:
            if not address.startswith('file:'):
                raise
        else:
            if asked['firstOnly']:
                break
    for place in asked['pages']:
        path = urllib.parse.unquote(place[len('file://') :]) if place.startswith('file:') else place
        if os.path.isdir(path):
            yield read_folder(path)
        elif '://' in place:
            yield read_page(place, asked['authorizations'].get(place))


def make_stub(name, version, python):
    distribution = f"{name.replace('-', '_')}-{version.replace('-', '_')}"
    requires = f'Requires-Python: {python}\n' if python else ''
    with zipfile.ZipFile(f'{STUBS}/{distribution}-py30-none-any.whl', 'w') as wheel:
        info = f'{distribution}.dist-info'
        wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}')
        wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py30-none-any\n')
        wheel.writestr(f'{info}/RECORD', '')


def main():
    asked = json.load(sys.stdin)
    found = {}
    for files in pages(asked):
        for url, sha256, size, python, yanked in files:
            file = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition('/')[2])
            version = version_of(file, asked['name'])
            if version is None or version in found or yanked:
                continue
            if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9.+!_-]*', version):
                continue
            found[version] = {'file': file, 'url': url, 'sha256': sha256, 'sizeBytes': size}
            make_stub(asked['name'], version, python and python.replace('\n', ' '))
    json.dump({'files': list(found.values())}, sys.stdout)


main()
