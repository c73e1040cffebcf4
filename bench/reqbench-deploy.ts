/** Makes functions of ReqBench real: installs what they pin, measures what importing it takes, and deploys them. */
import type {PackageInfo, Runtime} from 'forktree';
import type {PackageCost} from '../src/zygote/fit.ts';
import type {ReqBench, ReqFunction} from './reqbench-functions.ts';

/** ReqBench left setuptools out of its sets; by the name of what requires it. */
const leftOut: Readonly<Record<string, string>> = {gunicorn: 'setuptools==68.2.2'};
const matplotlib = 'matplotlib';
const fontFunction = 'fonts';

/** What is installed, by `name==version`. */
export type Installed = ReadonlyMap<string, PackageInfo>;

function nameOf(pin: string): string {
	return pin.slice(0, pin.indexOf('=='));
}

/** All that an installer would say is required. */
function wholeOf(pins: Iterable<string>): string[] {
	return [...pins]
		.flatMap((pin) => [pin, leftOut[nameOf(pin)] ?? pin])
		.filter((pin, at, all) => all.indexOf(pin) === at);
}

/** As few sets as there must be: none has two versions of one package. What fits together in functions fits together in a union of them. */
function groupPins(functions: readonly ReqFunction[]): string[][] {
	const groups: Array<Map<string, string>> = [];
	const largestFirst = [...functions].sort((a, b) => b.requirements.length - a.requirements.length);
	for (const {requirements} of largestFirst) {
		const fits = (group: ReadonlyMap<string, string>) =>
			requirements.every((pin) => (group.get(nameOf(pin)) ?? pin) === pin);
		const group = groups.find(fits) ?? new Map<string, string>();
		if (group.size === 0) groups.push(group);
		for (const pin of requirements) group.set(nameOf(pin), pin);
	}
	return groups.map((group) => wholeOf(group.values()));
}

/** All that is installed. */
export async function listInstalled(runtime: Runtime): Promise<Installed> {
	return new Map((await runtime.packages.list()).map((each) => [`${each.name}==${each.version}`, each]));
}

/** Installs all that the functions pin, unless it is there and measured. */
async function installPins(runtime: Runtime, functions: readonly ReqFunction[]): Promise<Installed> {
	const known = await listInstalled(runtime);
	const isMeasured = (pin: string) => known.get(pin)?.cost !== undefined || known.get(pin)?.modules.length === 0;
	const missing = groupPins(functions).filter((pins) => !pins.every(isMeasured));
	for (const pins of missing) await runtime.packages.add(pins);
	return missing.length === 0 ? known : listInstalled(runtime);
}

/** What importing each package takes on this machine; where that could not be measured, what the data says. */
export function costsOf(data: ReqBench, installed: Installed): Map<string, PackageCost> {
	return new Map(
		[...data.packages].map(([pin, {cost}]) => {
			const measured = installed.get(pin)?.cost;
			return [pin, measured === undefined ? cost : {ms: measured.exclusiveMs, mib: measured.privateMiB}] as const;
		}),
	);
}

/** With hashes: such a list is a lock, no resolver has to be asked. */
function lockedLines({requirements}: ReqFunction, installed: Installed): string[] {
	return wholeOf(requirements).map((pin) => {
		const sha256 = installed.get(pin)?.archive.sha256;
		if (sha256 === undefined) throw new Error(`expected ${pin} to be installed`);
		return `${pin} --hash=sha256:${sha256}`;
	});
}

/** matplotlib looks for the fonts of a machine when it is imported first, which takes a second, and keeps what it found in a file. */
type FontCache = {readonly file: string; readonly text: string};

async function findFonts(runtime: Runtime, plotting: ReqFunction, installed: Installed): Promise<FontCache> {
	const code = [
		'import os, pylab',
		'def f(event):',
		'    [file] = [name for name in os.listdir("/tmp") if name.startswith("fontlist-")]',
		'    with open(f"/tmp/{file}") as text:',
		'        return {"file": file, "text": text.read()}',
	];
	await runtime.deploy(
		fontFunction,
		{'f.py': code.join('\n')},
		{
			requirements: lockedLines(plotting, installed),
			env: {MPLCONFIGDIR: '/tmp'},
			zygote: false,
			limits: {memoryMb: 1024},
		},
	);
	const outcome = await runtime.invoke(fontFunction, null);
	await runtime.remove(fontFunction);
	if (!outcome.ok) throw new Error(`${fontFunction}: ${outcome.error.message}`);
	return outcome.value as FontCache;
}

/** Imports, and next to nothing else. */
function sourceOf({imports}: ReqFunction, fonts: FontCache | undefined): Record<string, string> {
	const handler = [...imports.map((module) => `import ${module}`), '', 'def f(event):', '    return event', ''];
	if (fonts === undefined) return {'f.py': handler.join('\n')};
	const copy = `with open('${fonts.file}', 'rb') as kept, open('/tmp/${fonts.file}', 'wb') as own:\n    own.write(kept.read())`;
	return {'f.py': [copy, ...handler].join('\n'), [fonts.file]: fonts.text};
}

/** The name under which a function is deployed once more, to be started in a fresh interpreter. */
export function coldName(id: string): string {
	return `${id}-cold`;
}

/** Installs and deploys the functions, those of `cold` a second time without a zygote, and takes others away; until all is measured. */
export async function deployFunctions(
	runtime: Runtime,
	functions: readonly ReqFunction[],
	cold: readonly ReqFunction[],
): Promise<void> {
	const installed = await installPins(runtime, functions);
	const wanted = new Set([...functions.map(({id}) => id), ...cold.map(({id}) => coldName(id))]);
	for (const {name} of runtime.list()) if (!wanted.has(name)) await runtime.remove(name);
	const plotting = functions.find(usesFonts);
	const fonts = plotting === undefined ? undefined : await findFonts(runtime, plotting, installed);
	const deploy = async (name: string, each: ReqFunction, zygote: boolean) => {
		const {resolver} = await runtime.deploy(name, sourceOf(each, usesFonts(each) ? fonts : undefined), {
			requirements: lockedLines(each, installed),
			reuse: false,
			zygote,
			env: usesFonts(each) ? {MPLCONFIGDIR: '/tmp'} : {},
		});
		if (resolver !== undefined)
			throw new Error(`${name}: expected its requirements to be a lock, ${resolver} was asked`);
	};
	for (const each of functions) await deploy(each.id, each, true);
	for (const each of cold) await deploy(coldName(each.id), each, false);
	// In the background, a measurement would be in the figures.
	await runtime.packages.measured();
}

function usesFonts({requirements}: ReqFunction): boolean {
	return requirements.some((pin) => nameOf(pin) === matplotlib);
}
