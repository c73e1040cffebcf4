import {execFileSync} from 'node:child_process';
import {lstat, readdir, readFile} from 'node:fs/promises';
import path from 'node:path';
import type {ExecutionContext} from 'ava';
import {ForktreeError} from '../../src/errors.ts';
import {type BuildOptions, createBuild} from '../../src/packages/build.ts';
import {createUnpack} from '../../src/packages/unpack.ts';
import {kernelTest} from '../helpers/kernel-test.ts';
import {py, python} from '../helpers/runtime.ts';
import {makeSdist, makeWheel, type SdistSpec} from '../helpers/wheels.ts';
import {locked, makeBench, useWorkshop} from '../helpers/workshop.ts';

const workshop = useWorkshop();
const {signal} = new AbortController();

type Built = {readonly wheel: string; readonly asked: ReadonlyArray<readonly string[]>; readonly folder: string};
type Options = Partial<BuildOptions>;

async function build(t: ExecutionContext, spec: SdistSpec, options: Options = {}): Promise<Built> {
	const {archives, folder} = await makeBench(t);
	const sdist = makeSdist(archives, spec);
	const asked: Array<readonly string[]> = [];
	const provide: BuildOptions['provide'] = async (requirements, step) => {
		asked.push(requirements);
		return options.provide?.(requirements, step) ?? [];
	};
	const step = createBuild(workshop(), {...options, provide});
	const wheel = await step(locked('pkg', '1.0', sdist), sdist, folder, {signal});
	return {wheel, asked, folder};
}

/** A project with a backend of its own, of which this is the text of `build_wheel`. */
function project(text: string, backend = ''): SdistSpec {
	const lines = text.trim().split('\n');
	return {
		files: {
			'pyproject.toml': '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["in tree"]\n',
			'in tree/backend.py': [
				'import os, sys, zipfile',
				'def make(path, name="pkg"):',
				'    with zipfile.ZipFile(path, "w") as wheel:',
				'        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")',
				'        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\n")',
				'        wheel.writestr("built.py", "")',
				'def build_wheel(folder, settings, metadata):',
				'    name = "pkg-1.0-py3-none-any.whl"',
				...lines.map((line) => `    ${line}`),
				'    return name',
				backend,
			].join('\n'),
		},
	};
}

const makesOne = 'make(folder + "/" + name)';

for (const suffix of ['.tar.gz', '.tar.bz2', '.tar.xz', '.zip'] as const) {
	kernelTest(`a ${suffix} is built by the backend in its tree, and unpacked`, async (t) => {
		const {wheel, asked, folder} = await build(t, {...project(`print("words"); ${makesOne}`), suffix});
		t.deepEqual(asked, []);
		t.is(wheel, path.join(folder, 'pkg-1.0-py3-none-any.whl'));
		const status = await lstat(wheel);
		t.deepEqual([status.isFile(), status.mode & 0o777, status.uid], [true, 0o644, 0]);
		t.deepEqual(await readdir(folder), [path.basename(wheel)]);
		const other = await makeBench(t);
		const metadata = await createUnpack(workshop())(locked('pkg', '1.0', wheel), wheel, other.folder, {signal});
		t.deepEqual(metadata.modules, ['built']);
	});
}

kernelTest('what the backend asks for is provided before, and seen by it and by what it starts', async (t) => {
	const dependency = async (name: string): Promise<string> => {
		const {archives, folder} = await makeBench(t);
		const files = {
			[`${name}.py`]: 'def main():\n    print("called")\n',
			[`${name}-1.0.dist-info/entry_points.txt`]: `[console_scripts]\n${name}-tool=${name}:main\n`,
		};
		const wheel = makeWheel(archives, {name, files});
		await createUnpack(workshop())(locked(name, '1.0', wheel), wheel, folder, {signal});
		return folder;
	};
	const [first, second] = [await dependency('first'), await dependency('second')];
	const spec = project(
		py`
			import first, second, subprocess
			subprocess.run([sys.executable, '-c', 'import first, second'], check=True)
			assert subprocess.run(['first-tool'], check=True, stdout=subprocess.PIPE).stdout == b'called\n'
			assert not any(path.endswith('-packages') for path in sys.path), sys.path
			${makesOne}
		`,
		'def get_requires_for_build_wheel(settings=None):\n    import first\n    return ["second>=1; python_version > \'3\'"]\n',
	);
	const toml = '[build-system]\nrequires = ["first"]\nbuild-backend = "backend"\nbackend-path = ["in tree"]\n';
	const {asked} = await build(
		t,
		{files: {...spec.files, 'pyproject.toml': toml}},
		{provide: async (requirements) => (requirements.length === 1 ? [first] : [first, second])},
	);
	t.deepEqual(asked, [['first'], ['first', "second>=1; python_version > '3'"]]);
});

/** A folder with setuptools and wheel of the interpreter of these tests; undefined: it has none. */
async function setuptools(t: ExecutionContext): Promise<string | undefined> {
	const {folder} = await makeBench(t);
	const program = py`
		import os, shutil, sys
		import setuptools, wheel
		site = os.path.dirname(os.path.dirname(setuptools.__file__))
		for name in os.listdir(site):
		    if name.split('-')[0] in ('setuptools', 'pkg_resources', '_distutils_hack', 'wheel') and os.path.isdir(f'{site}/{name}'):
		        shutil.copytree(f'{site}/{name}', f'{sys.argv[1]}/{name}')
	`;
	try {
		execFileSync(python, ['-I', '-c', program, folder], {stdio: 'pipe'});
	} catch {
		return undefined;
	}
	return folder;
}

kernelTest('a project without pyproject.toml is built by setuptools, with a C extension', async (t) => {
	const folder = await setuptools(t);
	if (folder === undefined) {
		t.pass('this interpreter has no setuptools');
		return;
	}
	const files = {
		'setup.py': py`
			import sys
			sys.path.insert(0, '.')
			from setuptools import Extension, setup
			setup(name='pkg', version='1.0', py_modules=['pkg'], ext_modules=[Extension('_pkg', ['_pkg.c'])])
		`,
		'pkg.py': 'from _pkg import answer\n',
		'_pkg.c': `
			#include <Python.h>
			static PyObject* answer(PyObject* self, PyObject* nothing) { return PyLong_FromLong(42); }
			static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {0}};
			static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_pkg", "", -1, methods};
			PyMODINIT_FUNC PyInit__pkg(void) { return PyModule_Create(&definition); }
		`,
	};
	const {wheel, asked} = await build(t, {files}, {provide: async () => [folder]});
	t.deepEqual(asked[0], ['setuptools>=40.8.0']);
	const other = await makeBench(t);
	const {interpreter, tools} = workshop();
	const metadata = await createUnpack({interpreter, tools})(locked('pkg', '1.0', wheel), wheel, other.folder, {signal});
	t.deepEqual(metadata.modules, ['pkg']);
	t.is(metadata.nativeLibraries.length, 1);
	const program = 'import sys; sys.path.insert(0, "/packages"); import pkg; print(pkg.answer())';
	const {stdout, stderr} = await tools.run([interpreter.executable, '-I', '-S', '-c', program], {
		...{network: 'none', timeoutMs: 20_000, memoryMb: 256, scratchMb: 8},
		mounts: [{source: other.folder, target: '/packages'}],
	});
	t.is(stdout, '42\n', stderr);
});

kernelTest('requirements that setup.py computes are provided', async (t) => {
	const folder = await setuptools(t);
	if (folder === undefined) {
		t.pass('this interpreter has no setuptools');
		return;
	}
	const files = {
		'setup.py': py`
			from setuptools import setup
			setup(name='pkg', version='1.0', py_modules=['pkg'], setup_requires=['no-such-thing>=' + str(1 + 1)])
		`,
		'pkg.py': '',
	};
	const seen: Array<readonly string[]> = [];
	const asks = build(
		t,
		{files},
		{
			async provide(requirements) {
				seen.push(requirements);
				if (seen.length > 1) throw new ForktreeError('NotSupported', 'asked');
				return [folder];
			},
		},
	);
	await t.throwsAsync(asks, {instanceOf: ForktreeError, message: 'asked'});
	t.deepEqual(seen[0], ['setuptools>=40.8.0']);
	t.true(seen[1]?.includes('no-such-thing>=2'), JSON.stringify(seen[1]));
});

kernelTest('a build has no network, no other user’s files, and nothing of the host to write to', async (t) => {
	const {wheel} = await build(
		t,
		project(py`
			import errno, socket
			def refused(call, *arguments):
			    try:
			        call(*arguments)
			    except OSError as error:
			        return errno.errorcode[error.errno]
			    raise AssertionError(arguments)
			assert refused(socket.create_connection, ('192.0.2.1', 80), 1) == 'ENETUNREACH'
			assert refused(open, '/etc/shadow') in ('ENOENT', 'EACCES')
			assert refused(os.listdir, '/packages') == 'ENOENT'
			for path in ('/usr/x', '/sdist/x', '/output/x', '/x', '/var/x', '/etc/x'):
			    assert refused(open, path, 'w') in ('EROFS', 'EACCES', 'ENOENT', 'EPERM'), path
			assert refused(os.unlink, '/output/wheel') in ('EACCES', 'EPERM')
			assert os.getuid() >= 1000
			${makesOne}
		`),
	);
	t.is(path.basename(wheel), 'pkg-1.0-py3-none-any.whl');
});

const failing: Readonly<Record<string, readonly [SdistSpec, RegExp, Options?]>> = {
	'a build that fails, with its last words': [
		project('print("x" * 9000); sys.exit("these last words")'),
		/these last words$/,
	],
	'two wheels': [project(`${makesOne}; make(folder + "/pkg-1.0-1-py3-none-any.whl")`), /and made \['pkg-1\.0-1-/],
	'no wheel': [project('pass'), /and made \[\]/],
	'a wheel that is a link': [
		project('make("/tmp/x"); os.symlink("/tmp/x", folder + "/" + name)'),
		/symbolic links|ELOOP/,
	],
	'a wheel that is a folder': [project('os.mkdir(folder + "/" + name)'), /is no regular file/],
	'a wheel of another name': [
		project('name = "other-1.0-py3-none-any.whl"; make(folder + "/" + name, "other")'),
		/is not pkg 1\.0: .* says other 1\.0/,
	],
	'a wheel of another version': [
		project('name = "pkg-2.0-py3-none-any.whl"; make(folder + "/" + name)'),
		/is not pkg 1\.0: .* says pkg 2\.0/,
	],
	'a name that leads outside': [
		project('name = "../wheels/pkg-1.0-py3-none-any.whl"; make(folder + "/" + name)'),
		/answered/,
	],
	'an answer that is no name': [project('name = ["x"]'), /answered \['x'\]/],
	'an answer that is no JSON': [project('name = object()'), /build_wheel of backend ended with 1/],
	'a fork bomb': [project('while True: os.fork()'), /it reached its limit of 32 processes/, {processes: 32}],
	'a full disk': [
		project('open(folder + "/x", "wb").write(bytes(48 << 20))'),
		/(?=.*it reached its limit of 32 MiB of scratch space)(?=.*No space left)/s,
		{scratchMb: 32},
	],
	'too much memory': [project('x = b"x" * (400 << 20)'), /memory/, {memoryMb: 200, scratchMb: 32}],
	'a backend that is not there': [
		{files: {'pyproject.toml': '[build-system]\nrequires = []\nbuild-backend = "no.such"\n'}},
		/No module named 'no'/,
	],
	'a backend that is no name': [
		{files: {'pyproject.toml': '[build-system]\nrequires = []\nbuild-backend = "a b"\n'}},
		/expected the name of an object as build-backend, got "a b"$/,
	],
	'a backend outside': [
		{
			files: {
				'pyproject.toml': '[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["../../../usr"]\n',
			},
		},
		/backend-path leads outside/,
	],
	'no requirements': [{files: {'pyproject.toml': '[build-system]\n'}}, /expected a list of texts as requires/],
	'a file that is no TOML': [{files: {'pyproject.toml': '[[['}}, /pyproject\.toml: /],
	'requirements that are no texts': [
		project(makesOne, 'def get_requires_for_build_wheel(settings=None):\n    return [1]'),
		/expected a list of texts as get_requires_for_build_wheel, got \[1\]/,
	],
};

for (const [what, [spec, message, options]] of Object.entries(failing)) {
	kernelTest(`a build fails for ${what}`, async (t) => {
		const error = await t.throwsAsync(build(t, spec, options), {instanceOf: ForktreeError});
		t.is(error.code, 'BuildFailed', error.message);
		t.regex(error.message, message);
		t.true(Buffer.byteLength(error.message) < 6000);
	});
}

const add = (name: string, fields = '') => `add(${JSON.stringify(name)}${fields})`;
const unsafe: Readonly<Record<string, SdistSpec>> = {
	'an absolute path': {write: add('/etc/x')},
	'a path that leads outside': {write: add('pkg-1.0/../../x')},
	'a zip with a path that leads outside': {suffix: '.zip', write: add('../x')},
	'a zip with a link': {
		suffix: '.zip',
		write:
			"entry = zipfile.ZipInfo('pkg-1.0/x'); entry.external_attr = 0o120777 << 16; archive.writestr(entry, '/etc')",
	},
	'a link that leads outside': {write: add('pkg-1.0/x', ", type=tarfile.SYMTYPE, linkname='../../x'")},
	'a link to an absolute path': {write: add('pkg-1.0/x', ", type=tarfile.SYMTYPE, linkname='/etc'")},
	'a hard link that leads outside': {write: add('pkg-1.0/x', ", type=tarfile.LNKTYPE, linkname='../etc/passwd'")},
	'a file below a link': {
		write: `${add('pkg-1.0/x', ", type=tarfile.SYMTYPE, linkname='.'")}; ${add('pkg-1.0/x/y')}`,
	},
	'a file in the place of a link': {
		write: `${add('pkg-1.0/x', ", type=tarfile.SYMTYPE, linkname='y'")}; ${add('pkg-1.0/x')}`,
	},
	'a device': {write: add('pkg-1.0/x', ', type=tarfile.CHRTYPE')},
	'a pipe': {write: add('pkg-1.0/x', ', type=tarfile.FIFOTYPE')},
	'more than it may unpack to': {
		write:
			"member = tarfile.TarInfo('pkg-1.0/x'); member.size = 64 << 20; archive.addfile(member, open('/dev/zero', 'rb'))",
	},
	'more entries than there may be': {write: "for number in range(200_001): add('.')"},
};

for (const [what, spec] of Object.entries(unsafe)) {
	kernelTest(`sources are refused for ${what}`, async (t) => {
		const error = await t.throwsAsync(build(t, spec, {scratchMb: 32}), {instanceOf: ForktreeError});
		t.is(error.code, 'UnsafeArchive', error.message);
	});
}

const unreadable: Readonly<Record<string, SdistSpec>> = {
	'two folders': {write: `${add('pkg-1.0/x')}; ${add('other/x')}`},
	'nothing in it': {},
	'a hard link to nothing': {write: add('pkg-1.0/x', ", type=tarfile.LNKTYPE, linkname='pkg-1.0/y'")},
	'an archive that is cut': {
		...project(makesOne),
		write: "archive.close(); data = open(target, 'rb').read(); open(target, 'wb').write(data[:-200])",
	},
	'no archive': {write: "archive.close(); open(target, 'w').write('x' * 5000)"},
};

for (const [what, spec] of Object.entries(unreadable)) {
	kernelTest(`sources fail for ${what}`, async (t) => {
		const error = await t.throwsAsync(build(t, spec), {instanceOf: ForktreeError});
		t.is(error.code, 'InstallFailed', error.message);
	});
}

kernelTest('links inside are kept', async (t) => {
	const spec = project('assert open("x").read() == open("pyproject.toml").read(); make(folder + "/" + name)');
	const write = add('pkg-1.0/x', ", type=tarfile.SYMTYPE, linkname='pyproject.toml'");
	const {wheel} = await build(t, {...spec, write});
	t.true((await readFile(wheel)).length > 0);
});

kernelTest('a build that hangs ends with its deadline, one that nobody wants with its signal', async (t) => {
	const late = await t.throwsAsync(build(t, project('import time; time.sleep(600)'), {timeoutMs: 2000}), {
		instanceOf: ForktreeError,
	});
	t.is(late.code, 'InstallTimeout', late.message);
	const {archives, folder} = await makeBench(t);
	const sdist = makeSdist(archives, project('import time; time.sleep(600)'));
	const controller = new AbortController();
	const step = createBuild(workshop(), {
		provide: async () => [],
		timeoutMs: 60_000,
	});
	const aborted = step(locked('pkg', '1.0', sdist), sdist, folder, {signal: controller.signal});
	setTimeout(() => controller.abort(), 1000);
	const error = await t.throwsAsync(aborted, {instanceOf: ForktreeError});
	t.is(error.code, 'Aborted');
	t.deepEqual(await readdir(folder), []);
});
