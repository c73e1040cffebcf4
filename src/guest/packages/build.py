"""Builds a wheel from a source distribution, as PEP 517 says. Runs in a sandbox without network, as a text of its own.

Called with a request as JSON: ``sdist`` (path), ``maxBytes``, ``maxEntries``, and either nothing more, which answers
``pyproject`` (the text of that file, or null), or ``backend``, ``backendPath``, ``packages`` (folders for sys.path), ``name``,
``version``, ``askMore``, and ``output`` (a file that can be written). Then the answer is ``requires``, when ``askMore`` is true
and the backend wants more, or ``wheel``, the name of the wheel whose content is in ``output``; or ``error``.
"""

import json
import os
import resource
import stat
import subprocess
import sys
import tarfile

from rules import Refused, check_entries, check_path, check_same, failed, open_zip, unsafe

WORK = '/tmp/build'
SOURCE, WHEELS, ANSWER = f'{WORK}/source', f'{WORK}/wheels', f'{WORK}/answer'
COPY_BYTES = 1 << 20
MAX_PYPROJECT_BYTES, MAX_ANSWER_BYTES = 512 << 10, 1 << 20

# In a process of its own, as PEP 517 recommends. Isolated from the site-packages of the interpreter, unlike those that it
# starts: they see ours first, by PYTHONPATH.
HOOK = """
import importlib, json, site, sys
backend_path, packages, backend, name, arguments, answer = json.loads(sys.argv.pop(1))
for folder in packages:
    site.addsitedir(folder)
sys.path[:0] = backend_path
module, _, attributes = backend.partition(':')
target = importlib.import_module(module)
for attribute in filter(None, attributes.split('.')):
    target = getattr(target, attribute)
if hasattr(target, name) or name == 'build_wheel':
    result = getattr(target, name)(*arguments)
else:
    result = []
with open(answer, 'w', encoding='utf-8') as file:
    json.dump(result, file)
"""


def answer_to(request):
    for folder in ('source', 'wheels', 'home', 'tmp', 'bin'):
        os.makedirs(f'{WORK}/{folder}')
    root = extract(request)
    if 'backend' not in request:
        return {'pyproject': read_pyproject(root)}
    build = Build(request, root)
    more = build.hook('get_requires_for_build_wheel') if request['askMore'] else []
    return {'requires': more} if more else {'wheel': build.wheel()}


# Unpacking


def extract(request):
    """Answers the folder that everything is in."""
    sdist = request['sdist']
    try:
        (extract_zip if sdist.lower().endswith('.zip') else extract_tar)(sdist, request)
    except Refused:
        raise
    except Exception as error:  # tarfile, and what decompresses, have many kinds
        raise failed(f'could not be unpacked: {error}')
    tops = os.listdir(SOURCE)
    if len(tops) != 1 or not os.path.isdir(f'{SOURCE}/{tops[0]}') or os.path.islink(f'{SOURCE}/{tops[0]}'):
        raise failed(f'has {len(tops)} files and folders at its top, not one folder')
    return f'{SOURCE}/{tops[0]}'


def extract_zip(path, request):
    with open_zip(path) as archive:
        for entry in check_entries(archive.infolist(), request):
            archive.extract(entry, SOURCE)  # makes no links, and reads no more than the size that was checked
            if entry.external_attr >> 16 & 0o111:
                os.chmod(f'{SOURCE}/{entry.filename}', 0o755)


def extract_tar(path, request):
    checks = TarChecks(request)
    options = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
    with tarfile.open(path) as archive:
        for member in archive:  # each header before its content is read
            if checks.is_wanted(member):
                archive.extract(member, SOURCE, **options)


class TarChecks:
    """What the filter of newer interpreters checks and more, for all of them: nothing is ever written through a link."""

    def __init__(self, request):
        self.bytes_left = request['maxBytes']
        self.entries_left = request['maxEntries']
        self.seen = set()
        self.links = set()

    def is_wanted(self, member):
        self.entries_left -= 1
        self.bytes_left -= member.size
        if self.entries_left < 0 or self.bytes_left < 0:
            raise unsafe('has too many entries, or unpacks to too much')
        name = member.name[2:] if member.name.startswith('./') else member.name
        if name in ('', '.'):
            return False
        check_path(name)
        is_link = member.issym() or member.islnk()
        if not (member.isreg() or member.isdir() or is_link):
            raise unsafe(f'has an entry that is no file, folder or link: {name!r}')
        parts = name.split('/')
        if any('/'.join(parts[:end]) in self.links for end in range(1, len(parts) + 1)):
            raise unsafe(f'has an entry in the place of a link: {name!r}')
        if is_link:
            self.check_link(name, member)
        self.seen.add(name)
        member.mode = 0o755 if member.isdir() or member.mode & 0o111 else 0o644
        return True

    def check_link(self, name, member):
        base = os.path.dirname(name) if member.issym() else ''
        target = os.path.normpath(os.path.join(base, member.linkname))
        if member.linkname.startswith('/') or target.split('/')[0] == '..' or name in self.seen:
            raise unsafe(f'has a link that leads outside, or in the place of a file: {name!r}')
        self.links.add(name)


def read_pyproject(root):
    path = f'{root}/pyproject.toml'
    if not os.path.lexists(path):
        return None
    with open(path, encoding='utf-8') as file:
        text = file.read(MAX_PYPROJECT_BYTES + 1)
    if len(text) > MAX_PYPROJECT_BYTES:
        raise failed('has too large a pyproject.toml')
    return text


# Building


def not_built(message):
    return Refused('BuildFailed', message)


class Build:
    def __init__(self, request, root):
        self.request = request
        self.root = root
        self.backend_path = [self.inside(folder) for folder in request['backendPath']]
        for name in ('python', 'python3'):
            os.symlink(sys.executable, f'{WORK}/bin/{name}')

    def inside(self, folder):
        path = os.path.realpath(os.path.join(self.root, folder))
        if os.path.commonpath([path, os.path.realpath(self.root)]) != os.path.realpath(self.root):
            raise not_built(f'backend-path leads outside: {folder!r}')
        return path

    def hook(self, name, *arguments):
        """Calls a hook. What it prints goes to stderr."""
        packages = self.request['packages']
        text = json.dumps([self.backend_path, packages, self.request['backend'], name, arguments, ANSWER])
        result = subprocess.run(
            [sys.executable, '-I', '-S', '-W', 'ignore', '-c', HOOK, text],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=2,
            env={
                **os.environ,
                'HOME': f'{WORK}/home',
                'TMPDIR': f'{WORK}/tmp',
                'PYTHONPATH': ':'.join(packages),
                'PATH': ':'.join([f'{WORK}/bin', *(f'{folder}/bin' for folder in packages), os.environ['PATH']]),
            },
        )
        if result.returncode != 0:
            raise not_built(f'{name} of {self.request["backend"]} ended with {result.returncode}')
        try:
            return json.loads(read_regular(ANSWER, MAX_ANSWER_BYTES))
        except ValueError:
            raise not_built(f'{name} of {self.request["backend"]} answered nothing')

    def wheel(self):
        """Answers its name, having copied it to where the host looks."""
        name = self.hook('build_wheel', WHEELS, {}, None)
        found = sorted(os.listdir(WHEELS))
        if len(found) != 1 or name != found[0]:
            raise not_built(f'build_wheel answered {name!r}, and made {found[:5]!r}')
        parts = name[: -len('.whl')].split('-')
        if not name.endswith('.whl') or len(parts) not in (5, 6):
            raise not_built(f'build_wheel made {name!r}, which is no wheel')
        try:
            check_same(parts[0], parts[1], self.request, name)
        except Refused as refused:
            raise not_built(str(refused))
        copy_regular(f'{WHEELS}/{name}', self.request['output'])
        return name


def open_regular(path):
    """Never by a link, and never something that waits."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f'{path} is no regular file')
    return open(file, 'rb')


def read_regular(path, most):
    with open_regular(path) as file:
        return file.read(most)


def copy_regular(source, target):
    with open_regular(source) as file, open(target, 'r+b') as output:
        block = file.read(COPY_BYTES)
        while block:
            output.write(block)
            block = file.read(COPY_BYTES)


def main():
    request = json.loads(sys.argv[1])
    # What is written elsewhere than in /tmp goes to a disk: one file, of which this is the limit.
    resource.setrlimit(resource.RLIMIT_FSIZE, (request['maxBytes'], request['maxBytes']))
    try:
        answer = answer_to(request)
    except Refused as refused:
        answer = {'error': {'code': refused.code, 'message': str(refused)}}
    except (OSError, UnicodeError) as error:
        answer = {'error': {'code': 'BuildFailed', 'message': str(error)}}
    json.dump(answer, sys.stdout)


if __name__ == '__main__':
    main()
