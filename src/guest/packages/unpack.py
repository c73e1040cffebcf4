"""Unpacks a wheel into an empty folder, compiles it, and says what is there then. Runs in a sandbox, as a text of its own.

Called with a request as JSON: ``wheel`` and ``folder`` (paths), ``seenAt`` (the path under which the folder will be seen),
``name`` and ``version`` (what the wheel must be), ``maxBytes`` and ``maxEntries``. Answers JSON on stdout: ``metadata``, or
``error`` with ``code`` and ``message``.
"""

import collections
import email.parser
import hashlib
import heapq
import json
import operator
import os
import platform
import py_compile
import re
import resource
import struct
import sys
import zipfile
import zlib

from rules import READ_ERRORS, VERSION, Refused, check_entries, check_same, failed, normal_name, open_zip, unsafe, version_key

COPY_BYTES = 1 << 20
MAX_METADATA_BYTES = 32 << 20
MAX_WORKERS = 8
# Compiling takes that many times as long as unpacking, for one byte.
COMPILE_WEIGHT = 60
FILE_WEIGHT = 20_000
# Not the path of this interpreter: the same files are seen by others, which have theirs elsewhere.
SHEBANG = b'#!/usr/bin/env python3\n'

File = collections.namedtuple('File', 'entry path is_script')


def install(request):
    folder = request['folder']
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request['maxBytes'], request['maxBytes']))
    with open_zip(request['wheel']) as archive:
        entries = check_entries(archive.infolist(), request)
        info = find_info(entries, request)
        check_wheel_version(read_message(archive, f'{info}/WHEEL'))
        message = read_message(archive, f'{info}/METADATA')
        check_identity(message, request)
        files = plan_files(entries)
        scripts = console_scripts(archive, info, files)
    for parent in sorted({os.path.dirname(path) for path in [*(file.path for file in files), *scripts]}):
        os.makedirs(os.path.join(folder, parent), exist_ok=True)
    rows = in_workers(files, request, sum(entry.file_size for entry in entries))
    rows += [write_script(folder, path, text) for path, text in scripts.items()]
    requires, extras = read_requirements(message)
    return {
        'name': request['name'],
        'version': request['version'],
        'requires': requires,
        'extras': extras,
        'files': [row[:3] for row in rows],
        'sizeBytes': sum(row[2] for row in rows),
        'nativeLibraries': [{'file': row[0], 'needs': row[3]} for row in rows if row[3] is not None],
    }


# Whether it is the right one


def find_info(entries, request):
    """The one .dist-info folder, see PEP 427; its name is one of the two places that say what the wheel is."""
    found = {top for top, slash, _ in (entry.filename.partition('/') for entry in entries) if slash}
    found = [top for top in found if top.endswith('.dist-info')]
    if len(found) != 1:
        raise failed(f'has {len(found)} .dist-info folders, not one')
    name, _, version = found[0][: -len('.dist-info')].rpartition('-')
    check_same(name, version, request, f'the folder {found[0]}')
    return found[0]


def check_identity(message, request):
    check_same(message.get('Name', ''), message.get('Version', ''), request, 'its METADATA')


def check_wheel_version(message):
    version = message.get('Wheel-Version', '')
    if version.partition('.')[0].strip() != '1':
        raise failed(f'is of a version that is not known: {version[:100]!r}')


def read_entry(archive, name):
    try:
        entry = archive.getinfo(name)
        if entry.file_size > MAX_METADATA_BYTES:
            raise failed(f'has too large a file {name}')
        return archive.read(entry)
    except KeyError:
        raise failed(f'has no {name}')
    except READ_ERRORS as error:
        raise failed(f'has a damaged file {name}: {error}')


def read_message(archive, name):
    text = read_entry(archive, name).decode('utf-8', 'replace')
    return email.parser.HeaderParser().parsestr(text)


# Where everything goes


def plan_files(entries):
    files = [file for file in (plan_file(entry) for entry in entries) if file is not None]
    taken = {}
    for file in files:
        if taken.setdefault(file.path, file) is not file:
            raise unsafe(f'has two files for {file.path!r}')
    for path in taken:
        parent = os.path.dirname(path)
        while parent:
            if parent in taken:
                raise unsafe(f'has a file in the place of the folder {parent!r}')
            parent = os.path.dirname(parent)
    return files


def plan_file(entry):
    """As installers do with --target: what is in ``*.data`` is spread, see PEP 427."""
    top, _, rest = entry.filename.partition('/')
    path = entry.filename
    is_script = False
    if rest and top.endswith('.data'):
        scheme, _, path = rest.partition('/')
        is_script = scheme == 'scripts'
        if scheme in ('scripts', 'headers') and path:
            path = f'bin/{path}' if is_script else f'include/{top.rpartition("-")[0]}/{path}'
        elif scheme not in ('purelib', 'platlib', 'data') or not path:
            raise failed(f'has a file that belongs nowhere: {entry.filename!r}')
    if path.endswith('.pyc') and '__pycache__' in path.split('/'):
        return None  # it is made here, by this interpreter
    return File(entry, path, is_script)


ENTRY_POINT = re.compile(r'([^\W\d]\w*(?:\.[^\W\d]\w*)*)\s*:\s*([^\W\d]\w*)((?:\.[^\W\d]\w*)*)\s*(?:\[.*\])?')


def console_scripts(archive, info, files):
    """Texts of scripts in bin/ for the entry points: tools that build packages call each other by them."""
    taken = {file.path for file in files}
    if f'{info}/entry_points.txt' not in taken:
        return {}
    import configparser

    parser = configparser.RawConfigParser(delimiters=('=',), strict=False)
    parser.optionxform = str
    try:
        parser.read_string(read_entry(archive, f'{info}/entry_points.txt').decode('utf-8', 'replace'))
    except configparser.Error:
        return {}
    scripts = {}
    for group in ('console_scripts', 'gui_scripts'):
        for name, value in parser.items(group) if parser.has_section(group) else ():
            found = ENTRY_POINT.fullmatch(value.strip())
            path = f'bin/{name}'
            if found is None or not re.fullmatch(r'\w[\w.-]{0,199}', name, re.ASCII) or path in taken or 'bin' in taken:
                continue
            module, first, rest = found.groups()
            text = f'import sys\nfrom {module} import {first}\nsys.exit({first}{rest}())\n'
            scripts[path] = SHEBANG + text.encode()
    return scripts


# Writing


def in_workers(files, request, declared):
    """Spreads the work over the cores. The workers are in the sandbox's own pid namespace: they end with it."""
    shares = share(files, min(len(os.sched_getaffinity(0)), MAX_WORKERS))
    pyc_bytes = max(request['maxBytes'] - declared, 0) // max(len(shares), 1)
    workers = [start_worker(work, files, request, pyc_bytes) for files in shares]
    answers = [finish_worker(*worker) for worker in workers]
    for answer in answers:
        if 'error' in answer:
            raise Refused(*answer['error'])
    return [row for answer in answers for row in answer['rows']]


def share(files, count):
    """Largest first, each to who has least."""
    shares = [(0, index, []) for index in range(count)]
    for file in sorted(files, key=weight, reverse=True):
        load, index, own = heapq.heappop(shares)
        own.append(file)
        heapq.heappush(shares, (load + weight(file), index, own))
    return [own for _, _, own in shares if own]


def weight(file):
    return FILE_WEIGHT + file.entry.file_size * (COMPILE_WEIGHT if is_source(file) else 1)


def is_source(file):
    return file.path.endswith('.py') and not file.is_script


def start_worker(call, *arguments):
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid != 0:
        os.close(write_end)
        return pid, read_end
    try:
        try:
            answer = {'rows': call(*arguments)}
        except Refused as refused:
            answer = {'error': (refused.code, str(refused))}
        except OSError as error:
            answer = {'error': ('InstallFailed', f'could not be written: {error}')}
        with open(write_end, 'w', encoding='utf-8') as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


def finish_worker(pid, read_end):
    with open(read_end, encoding='utf-8') as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        raise failed(f'made the unpacking process end early, with status {status}')
    return json.loads(text)


def work(files, request, pyc_bytes):
    rows = []
    with open_zip(request['wheel']) as archive:
        for file in files:
            rows.append(unpack_file(archive, file, request['folder']))
            row = compile_file(file.path, request) if is_source(file) else None
            if row is not None:
                rows.append(row)
                pyc_bytes -= row[2]
            if pyc_bytes < 0:
                raise unsafe(f'takes more than {request["maxBytes"]} bytes with its byte code')
    return rows


def unpack_file(archive, file, folder):
    executable = file.is_script or file.entry.external_attr >> 16 & 0o111
    target = os.path.join(folder, file.path)
    try:
        with archive.open(file.entry) as source, create(target, executable) as output:
            first = source.read(COPY_BYTES)
            if file.is_script and re.match(rb'#!pythonw?[\s]', first):
                first = SHEBANG + first.partition(b'\n')[2]
            digest, size = copy(first, source, output, file.entry.file_size + len(SHEBANG))
    except READ_ERRORS as error:
        raise failed(f'has a damaged file {file.path!r}: {error}')
    return file.path, digest, size, needed_libraries(target) if first[:4] == b'\x7fELF' else None


def create(path, executable):
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, 0o755 if executable else 0o644), 'wb', buffering=0)


def copy(block, source, output, most):
    digest = hashlib.sha256()
    size = 0
    while block:
        size += len(block)
        if size > most:
            raise unsafe('has an entry that is larger than it says')
        digest.update(block)
        view = memoryview(block)
        while view:
            view = view[output.write(view) :]
        block = source.read(COPY_BYTES)
    return digest.hexdigest(), size


def compile_file(path, request):
    """Unchecked: the folder is read-only later, and has other time stamps. What does not compile is left alone."""
    try:
        target = py_compile.compile(
            os.path.join(request['folder'], path),
            dfile=os.path.join(request['seenAt'], path),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    except OSError:
        raise
    except Exception:  # templates, and files for other versions; the compiler has many ways to say no
        return None
    with open(target, 'rb') as file:
        content = file.read()
    return os.path.relpath(target, request['folder']), hashlib.sha256(content).hexdigest(), len(content), None


def write_script(folder, path, text):
    with create(os.path.join(folder, path), True) as output:
        return path, *copy(text, open(os.devnull, 'rb'), output, len(text)), None


# What the native libraries need, see elf(5)

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB, DT_STRSZ = 0, 1, 5, 10
MAX_SEGMENTS, MAX_DYNAMIC_BYTES, MAX_STRING_BYTES, MAX_NEEDED = 1024, 1 << 20, 64 << 20, 1000
# By class: the header's phoff, phentsize, phnum; a segment's type, offset, address, size; a dynamic entry.
FORMS = {1: ('28xI10xHH', 'III4xI', 'iI'), 2: ('32xQ14xHH', 'I4xQQ8xQ', 'qQ')}


def needed_libraries(path):
    with open(path, 'rb') as file:
        try:
            return Elf(file).needed()
        except (ValueError, KeyError, struct.error):
            return []  # something that only looks like one


class Elf:
    def __init__(self, file):
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        ident = self.read_at(0, 6)
        order = {1: '<', 2: '>'}[ident[5]]
        header, segment, dynamic = (struct.Struct(order + form) for form in FORMS[ident[4]])
        offset, entry_size, count = header.unpack(self.read_at(0, header.size))
        if count > MAX_SEGMENTS:
            raise ValueError('too many segments')
        places = range(offset, offset + count * entry_size, entry_size)
        self.segments = [segment.unpack(self.read_at(place, segment.size)) for place in places]
        self.dynamic = dynamic

    def read_at(self, offset, size):
        if not 0 <= offset <= self.size - size:
            raise ValueError('cut short')
        self.file.seek(offset)
        return self.file.read(size)

    def needed(self):
        tags = [pair for segment in self.segments if segment[0] == PT_DYNAMIC for pair in self.read_dynamic(*segment)]
        values = dict(tags)
        offsets = [value for tag, value in tags if tag == DT_NEEDED]
        if not offsets:
            return []
        if len(offsets) > MAX_NEEDED or values[DT_STRSZ] > MAX_STRING_BYTES:
            raise ValueError('too large')
        strings = self.read_at(self.place_of(values[DT_STRTAB]), values[DT_STRSZ])
        return [strings[offset : strings.index(b'\0', offset)].decode('utf-8', 'replace') for offset in offsets]

    def read_dynamic(self, _kind, offset, _address, size):
        whole = min(size, MAX_DYNAMIC_BYTES) // self.dynamic.size * self.dynamic.size
        for tag, value in self.dynamic.iter_unpack(self.read_at(offset, whole)):
            if tag == DT_NULL:
                return
            yield tag, value

    def place_of(self, address):
        for kind, offset, start, size in self.segments:
            if kind == PT_LOAD and start <= address < start + size:
                return offset + address - start
        raise ValueError('not loaded')


# What the distribution says of itself, see PEP 345 and 508


def read_requirements(message):
    """Answers what is required for this interpreter, and what else for each extra."""
    environment = marker_environment()
    texts = message.get_all('Requires-Dist') or []
    requirements = [found for found in map(read_requirement, texts) if found is not None]
    base = {name for name, marker in requirements if holds(marker, {**environment, 'extra': ''})}
    extras = {}
    for extra in sorted({normal_name(text.strip()) for text in message.get_all('Provides-Extra') or []}):
        if re.fullmatch('[a-z0-9]+(?:-[a-z0-9]+)*', extra):
            own = {**environment, 'extra': extra}
            extras[extra] = sorted({name for name, marker in requirements if holds(marker, own)} - base)
    return sorted(base), extras


def read_requirement(text):
    """Answers name and marker. A URL can hold semicolons: there, one stands after a space."""
    found = re.match(r'\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\])?\s*(@?)', text)
    if found is None:
        return None
    _, _, marker = text[found.end() :].partition(' ;' if found.group(2) else ';')
    return normal_name(found.group(1)), marker


def marker_environment():
    """See PEP 508."""
    implementation = sys.implementation.version
    suffix = '' if implementation.releaselevel == 'final' else implementation.releaselevel[0] + str(implementation.serial)
    return {
        'os_name': os.name,
        'sys_platform': sys.platform,
        'platform_machine': platform.machine(),
        'platform_python_implementation': platform.python_implementation(),
        'platform_release': platform.release(),
        'platform_system': platform.system(),
        'platform_version': platform.version(),
        'python_version': '.'.join(platform.python_version_tuple()[:2]),
        'python_full_version': platform.python_version(),
        'implementation_name': sys.implementation.name,
        'implementation_version': '.'.join(map(str, implementation[:3])) + suffix,
    }


TOKEN = re.compile(
    r'\s*(?:(?P<text>"[^"]*"|\'[^\']*\')|(?P<operator>===|[=!<>~]=|[<>]|not\s+in\b|in\b)'
    r'|(?P<join>and\b|or\b)|(?P<variable>[a-z][a-z0-9_.]*)|(?P<bracket>[()]))\s*'
)
# As older metadata spells them.
OLD_NAMES = {
    'os.name': 'os_name',
    'sys.platform': 'sys_platform',
    'platform.version': 'platform_version',
    'platform.machine': 'platform_machine',
    'platform.python_implementation': 'platform_python_implementation',
    'python_implementation': 'platform_python_implementation',
}
MAX_MARKER, MAX_TOKENS = 10_000, 1000


def holds(marker, environment):
    """One that is not understood holds: what is required too much is not there, and does no harm."""
    if not marker.strip():
        return True
    try:
        return Marker(marker, environment).evaluate()
    except (ValueError, LookupError, AttributeError, RecursionError):
        return True


class Marker:
    """Reads by recursive descent, and evaluates on the way."""

    def __init__(self, text, environment):
        self.environment = environment
        self.tokens = []
        at = 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if found is None or len(text) > MAX_MARKER or len(self.tokens) > MAX_TOKENS:
                raise ValueError('no marker')
            self.tokens.append((found.lastgroup, found.group(found.lastgroup)))
            at = found.end()
        self.tokens.reverse()

    def evaluate(self):
        value = self.any()
        if self.tokens:
            raise ValueError('more than a marker')
        return value

    def take(self, kind, *texts):
        if self.tokens and self.tokens[-1][0] == kind and (not texts or self.tokens[-1][1] in texts):
            return self.tokens.pop()[1]
        return None

    def any(self):
        value = self.all()
        while self.take('join', 'or'):
            value = self.all() or value
        return value

    def all(self):
        value = self.one()
        while self.take('join', 'and'):
            value = self.one() and value
        return value

    def one(self):
        if self.take('bracket', '('):
            value = self.any()
            if not self.take('bracket', ')'):
                raise ValueError('no closing bracket')
            return value
        left, left_name = self.operand()
        word = self.take('operator')
        if word is None:
            raise ValueError('no operator')
        right, right_name = self.operand()
        if 'extra' in (left_name, right_name):
            left, right = normal_name(left), normal_name(right)
        return compare(left, ' '.join(word.split()), right)

    def operand(self):
        text = self.take('text')
        if text is not None:
            return text[1:-1], None
        name = self.take('variable')
        name = OLD_NAMES.get(name, name)
        if name not in self.environment:
            raise ValueError('no variable')
        return self.environment[name], name


COMPARISONS = {
    '==': operator.eq,
    '!=': operator.ne,
    '<': operator.lt,
    '<=': operator.le,
    '>': operator.gt,
    '>=': operator.ge,
    'in': lambda left, right: left in right,
    'not in': lambda left, right: left not in right,
}


def compare(left, word, right):
    """Versions as PEP 440 compares them, when both are some, and else texts."""
    if word == '===':
        return left.lower() == right.lower()
    is_prefix = word in ('==', '!=') and right.endswith('.*')
    keys = version_key(left), version_key(right[:-2] if is_prefix else right)
    if 'in' in word or any(isinstance(key, str) for key in keys):
        return COMPARISONS[word](left, right)
    if is_prefix:
        return starts_with(left, release_of(right[:-2])) == (word == '==')
    if word == '~=':
        return keys[0] >= keys[1] and starts_with(left, release_of(right)[:-1])
    return COMPARISONS[word](*keys)


def release_of(version):
    return [int(part) for part in VERSION.fullmatch(version.strip().lower()).group(2).split('.')]


def starts_with(version, numbers):
    return (release_of(version) + [0] * len(numbers))[: len(numbers)] == numbers


def main():
    request = json.loads(sys.argv[1])
    try:
        answer = {'metadata': install(request)}
    except Refused as refused:
        answer = {'error': {'code': refused.code, 'message': str(refused)}}
    except OSError as error:
        answer = {'error': {'code': 'InstallFailed', 'message': f'could not be unpacked: {error}'}}
    json.dump(answer, sys.stdout)


if __name__ == '__main__':
    main()
