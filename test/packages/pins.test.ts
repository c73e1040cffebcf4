import {mkdir, rm, writeFile} from 'node:fs/promises';
import path from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {readPins} from '../../src/packages/pins.ts';
import {temporaryFolder} from '../helpers/runtime.ts';

/** Writes files into a folder of the test; answers the path of requirements.txt. */
async function write(t: ExecutionContext, files: Readonly<Record<string, string>>): Promise<string> {
	const folder = await temporaryFolder();
	t.teardown(() => rm(folder, {recursive: true, force: true}));
	for (const [name, text] of Object.entries(files)) {
		await mkdir(path.dirname(path.join(folder, name)), {recursive: true});
		await writeFile(path.join(folder, name), text);
	}
	return path.join(folder, 'requirements.txt');
}

const hash = `sha256:${'0123456789abcdef'.repeat(4)}`;

test('a locked file: names normalised, each once, without what is no version', async (t) => {
	const file = await write(t, {
		'requirements.txt': [
			'# made by a resolver',
			'--index-url https://pypi.example/simple',
			`Zope.Interface==6.0 \\\n    --hash=${hash}`,
			`attrs[tests]==23.1.0 --hash=${hash}`,
			`attrs==23.1.0 --hash=${hash} # twice`,
			`six===1.16.0 --hash=${hash}`,
		].join('\n'),
	});
	t.deepEqual(await readPins(file), {
		pins: ['attrs==23.1.0', 'six==1.16.0', 'zope-interface==6.0'],
		conditional: [],
	});
});

test('lines with a condition are named as such', async (t) => {
	const file = await write(t, {'requirements.txt': 'six==1.16.0\ncolorama==0.4.6 ; sys_platform == "win32"\n'});
	t.deepEqual(await readPins(file), {
		pins: ['colorama==0.4.6', 'six==1.16.0'],
		conditional: ['colorama==0.4.6 ; sys_platform == "win32"'],
	});
});

test('included files are those beside it', async (t) => {
	const file = await write(t, {
		'requirements.txt': '-r more/base.txt\nsix==1.16.0\n',
		'more/base.txt': '-c constraints.txt\nidna==3.4\n',
		'more/constraints.txt': 'attrs>=20\n',
	});
	t.deepEqual((await readPins(file)).pins, ['idna==3.4', 'six==1.16.0']);
});

for (const [line, message] of [
	['numpy', /requirements\.txt: expected name==version, as in a locked file, got numpy$/],
	['numpy>=1.2', /got numpy>=1\.2$/],
	['numpy==1.*', /got numpy==1\.\*$/],
	['numpy==1.2,==1.3', /got numpy==1\.2,==1\.3$/],
	['numpy==1.2 ; os_name == "nt"\nnumpy==1.3 ; os_name != "nt"', /expected one version of numpy, got 1\.2 and 1\.3$/],
	['six==1.0\n\u001b[2Jnumpy==1.2', /line 2: expected text without control characters; found "\\u001b"$/],
	['-r nowhere.txt', /line 1: expected a file in the folder of the function; found "nowhere\.txt"$/],
	['-e .', /line 1: expected /],
] as const) {
	test(`${JSON.stringify(line)} is refused`, async (t) => {
		const file = await write(t, {'requirements.txt': line});
		const error = await t.throwsAsync(readPins(file), {code: 'InvalidRequirements'});
		t.regex(error.message, message);
	});
}

test('no file is the error of the system', async (t) => {
	await t.throwsAsync(readPins('/nowhere/requirements.txt'), {code: 'ENOENT'});
});
