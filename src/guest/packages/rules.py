"""What holds for archives of packages of both kinds: wheels and source distributions."""

import re
import stat
import struct
import zipfile
import zlib

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1000


class Refused(Exception):
    """The archive is not to be used; ``code`` is one of the host's error codes."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def unsafe(message):
    return Refused('UnsafeArchive', message)


def failed(message):
    return Refused('InstallFailed', message)


# Paths


def check_path(path):
    if re.search(r'[\x00-\x1f\x7f-\x9f\\]', path) or re.match('[A-Za-z]:', path):
        raise unsafe(f'has an entry with a name that is not safe: {path[:200]!r}')
    if any(part in ('', '.', '..') for part in path.split('/')):
        raise unsafe(f'has an entry that leads outside: {path[:200]!r}')
    encoded = path.encode('utf-8', 'surrogateescape')
    if len(encoded) > MAX_PATH_BYTES or any(len(part) > MAX_NAME_BYTES for part in encoded.split(b'/')):
        raise unsafe(f'has an entry with too long a name: {path[:200]!r}…')


# Zip archives


READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, struct.error)


def open_zip(path):
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise failed(f'is no zip archive that can be read: {error}')


def check_entries(entries, request):
    """Refuses all of it for one bad entry. Answers the entries that are files."""
    if len(entries) > request['maxEntries']:
        raise unsafe(f'has {len(entries)} entries, more than {request["maxEntries"]}')
    size = sum(entry.file_size for entry in entries)
    if size > request['maxBytes']:
        raise unsafe(f'unpacks to {size} bytes, more than {request["maxBytes"]}')
    seen = set()
    for entry in entries:
        name = entry.orig_filename  # the other one ends before a NUL
        check_path(name[:-1] if name.endswith('/') else name)
        check_kind(entry)
        if name in seen:
            raise unsafe(f'has two entries named {name!r}')
        seen.add(name)
    return [entry for entry in entries if not entry.orig_filename.endswith('/')]


def check_kind(entry):
    name = entry.orig_filename
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) and not (kind == stat.S_IFDIR and name.endswith('/')):
        raise unsafe(f'has an entry that is no regular file: {name!r}')
    if entry.flag_bits & 0x2041:  # encrypted, strongly encrypted, or with a masked directory
        raise unsafe(f'has an encrypted entry: {name!r}')
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise failed(f'has an entry that is neither stored nor deflated: {name!r}')


# Names and versions, see PEP 440 and 503


def check_same(name, version, request, where):
    wanted = f'{request["name"]} {request["version"]}'
    if normal_name(name) != request['name'] or version_key(version) != version_key(request['version']):
        raise failed(f'is not {wanted}: {where} says {name[:100]} {version[:100]}')


def normal_name(name):
    return re.sub(r'[-_.]+', '-', name).lower()


VERSION = re.compile(
    r'v?(?:(\d+)!)?(\d+(?:\.\d+)*)'
    r'(?:[-_.]?(alpha|beta|preview|pre|rc|a|b|c)[-_.]?(\d*))?'
    r'(?:-(\d+)|[-_.]?(post|rev|r)[-_.]?(\d*))?'
    r'(?:[-_.]?(dev)[-_.]?(\d*))?'
    r'(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?'
)
PHASES = {'alpha': 'a', 'beta': 'b', 'c': 'rc', 'pre': 'rc', 'preview': 'rc'}
INFINITY = float('inf')


def version_key(text):
    """Orders as PEP 440 says. What is no version is only equal to itself."""
    found = VERSION.fullmatch(text.strip().lower()) if len(text) < 200 else None
    if found is None:
        return text
    epoch, release, phase, phase_number, implicit_post, post, post_number, dev, dev_number, local = found.groups()
    numbers = [int(part) for part in release.split('.')]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    is_post = implicit_post is not None or post is not None
    if phase is not None:
        pre_key = (PHASES.get(phase, phase), int(phase_number or 0))
    else:
        pre_key = ('', 0) if dev is not None and not is_post else ('z', 0)
    post_key = int(implicit_post or post_number or 0) if is_post else -1
    dev_key = int(dev_number or 0) if dev is not None else INFINITY
    parts = re.split('[-_.]', local) if local else []
    local_key = [(1, int(part), '') if part.isdigit() else (0, 0, part) for part in parts]
    return int(epoch or 0), numbers, pre_key, post_key, dev_key, local_key
