/** Makes wheels from Python text, and lets the installer find nothing else. */
import {execFileSync} from 'node:child_process';
import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import path from 'node:path';
import process from 'node:process';
import {python} from './runtime.ts';

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

/** Makes the wheels, each of version 1.0, for this process alone; they go with it. */
export function provideWheels(wheels: Readonly<Record<string, Readonly<Record<string, string>>>>): void {
	const folder = mkdtempSync(path.join(tmpdir(), 'forktree-test-wheels-'));
	process.once('exit', () => rmSync(folder, {recursive: true, force: true}));
	execFileSync(python, ['-I', '-c', program, folder, JSON.stringify(wheels)]);
	Object.assign(process.env, {PIP_NO_INDEX: '1', PIP_FIND_LINKS: folder, UV_OFFLINE: '1', UV_FIND_LINKS: folder});
}
