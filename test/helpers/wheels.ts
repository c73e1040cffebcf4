/** Makes wheels from Python text, and lets the installer find nothing else. */
import {execFileSync} from 'node:child_process';
import {chmodSync, mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {python} from './python.ts';

const program = `
import json, sys, zipfile
folder, wheels = sys.argv[1], json.loads(sys.argv[2])
for name, files in wheels.items():
    info = f'{name}-1.0.dist-info'
    files = {**files, f'{info}/METADATA': f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n',
             f'{info}/WHEEL': 'Wheel-Version: 1.0\\nGenerator: forktree\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'}
    files[f'{info}/RECORD'] = ''.join(f'{path},,\\n' for path in [*files, f'{info}/RECORD'])
    with zipfile.ZipFile(f'{folder}/{name}-1.0-py3-none-any.whl', 'w') as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
`;

/** What numpy does with numpy.random, which is what forktree looks for: a state of its own, seeded when imported. */
export const likeNumpy: Readonly<Record<string, string>> = {
	'numpy/__init__.py': '',
	'numpy/random.py': `
import random
_own = random.Random()
def seed(value):
    _own.seed(value)
def rand():
    return _own.random()
`,
};

/** Its generator of random numbers draws a seed when it is imported. */
export const likeTorch: Readonly<Record<string, string>> = {
	'torch.py': `
import os
class Generator:
    def __init__(self):
        self.seed()
    def seed(self):
        self.drawn = os.urandom(8).hex()
default_generator = Generator()
`,
};

/** Makes the wheels, each of version 1.0, for this process alone; they go with it. */
export function provideWheels(wheels: Readonly<Record<string, Readonly<Record<string, string>>>>): void {
	const folder = mkdtempSync(path.join(tmpdir(), 'forktree-test-wheels-'));
	process.once('exit', () => rmSync(folder, {recursive: true, force: true}));
	chmodSync(folder, 0o755); // the installer is a user of no importance
	execFileSync(python, ['-I', '-c', program, folder, JSON.stringify(wheels)]);
	Object.assign(process.env, {PIP_NO_INDEX: '1', PIP_FIND_LINKS: folder, UV_OFFLINE: '1', UV_FIND_LINKS: folder});
}

/** One wheel, of which anything can be wrong. */
export type WheelSpec = {
	readonly name?: string;
	readonly version?: string;
	/** Besides METADATA, WHEEL and RECORD; those too, when they are given. */
	readonly files?: Readonly<Record<string, string>>;
	/** Further lines of METADATA. */
	readonly metadata?: readonly string[];
	/** Python text that adds entries to `wheel`, an open ZipFile. */
	readonly write?: string;
	/** Python text that changes the finished archive: `data`, a bytearray. */
	readonly patch?: string;
};

const oneWheel = `
import json, stat, sys, zipfile
target, spec = sys.argv[1], json.loads(sys.argv[2])
info = f"{spec['name']}-{spec['version']}.dist-info"
metadata = ['Metadata-Version: 2.1', f"Name: {spec['name']}", f"Version: {spec['version']}", *spec['metadata'], '']
files = {
    f'{info}/METADATA': '\\n'.join(metadata),
    f'{info}/WHEEL': 'Wheel-Version: 1.0\\nGenerator: forktree\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n',
    **spec['files'],
}
files.setdefault(f'{info}/RECORD', ''.join(f'{path},,\\n' for path in [*files, f'{info}/RECORD']))
with zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED) as wheel:
    for path, text in files.items():
        wheel.writestr(path, text)
    exec(spec['write'])
with open(target, 'rb') as file:
    data = bytearray(file.read())
exec(spec['patch'])
with open(target, 'wb') as file:
    file.write(data)
`;

/** Makes a wheel in a folder. @returns its path */
export function makeWheel(
	folder: string,
	{name = 'pkg', version = '1.0', files = {}, metadata = [], write = '', patch = ''}: WheelSpec,
): string {
	const target = path.join(folder, `${name}-${version}-py3-none-any.whl`);
	const spec = JSON.stringify({name, version, files, metadata, write, patch});
	execFileSync(python, ['-I', '-S', '-W', 'ignore', '-c', oneWheel, target, spec]);
	return target;
}

/** One source distribution. */
export type SdistSpec = {
	readonly name?: string;
	/** Below its folder. */
	readonly files?: Readonly<Record<string, string>>;
	/** By default .tar.gz. */
	readonly suffix?: '.tar.gz' | '.tar.bz2' | '.tar.xz' | '.zip';
	/** Python text that adds entries to `archive`, an open TarFile or ZipFile. */
	readonly write?: string;
};

const oneSdist = `
import io, json, sys, tarfile, zipfile
target, spec = sys.argv[1], json.loads(sys.argv[2])
top = f"{spec['name']}-1.0"
files = {f'{top}/{path}': text for path, text in spec['files'].items()}
def add(path, text='', **fields):
    member = tarfile.TarInfo(path)
    member.size = len(text.encode())
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(text.encode()))
if target.endswith('.zip'):
    archive = zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED)
    add = lambda path, text='': archive.writestr(path, text)
else:
    archive = tarfile.open(target, 'w:' + target.rpartition('.')[2])
with archive:
    for path, text in files.items():
        add(path, text)
    exec(spec['write'])
`;

/** Makes a source distribution of version 1.0 in a folder. @returns its path */
export function makeSdist(
	folder: string,
	{name = 'pkg', files = {}, suffix = '.tar.gz', write = ''}: SdistSpec,
): string {
	const target = path.join(folder, `${name}-1.0${suffix}`);
	execFileSync(python, ['-I', '-S', '-c', oneSdist, target, JSON.stringify({name, files, write})]);
	return target;
}
