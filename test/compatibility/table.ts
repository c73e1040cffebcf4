/** The table of docs/compatibility.md. */

/** What became of one package. */
export type Row = {
	readonly name: string;
	readonly version: string;
	/** Modules that no zygote could import, and why. */
	readonly importedInSandbox: readonly string[];
} & (
	| {
			readonly trouble: undefined;
			/** What it did in its sandbox. */
			readonly did: string;
			/** With all that it requires. */
			readonly distributions: number;
			/** Of its modules in a bare interpreter; undefined when it was not measured. */
			readonly importMs: number | undefined;
			/** Of a zygote that has imported all of it. */
			readonly importMiB: number;
			readonly storeMiB: number;
			/** From asking until a fresh sandbox could take the event. */
			readonly startMs: number;
	  }
	| {readonly trouble: string}
);

const head = ['package', 'version', 'works', 'forked', 'import ms', 'MiB', 'on disk', 'start ms', 'what it did'];

export function renderTable(rows: readonly Row[]): string {
	const lines = [head, head.map(() => '---'), ...rows.map(cells)];
	return lines.map((line) => `| ${line.join(' | ')} |\n`).join('');
}

function cells(row: Row): string[] {
	const {name, version, importedInSandbox} = row;
	const inZygote = importedInSandbox.length === 0 ? 'imported' : `but for ${importedInSandbox.join(', ')}`;
	if (row.trouble !== undefined) {
		return [name, version, 'no', '', '', '', '', '', (row.trouble.split('\n')[0] ?? '').replaceAll('|', '\\|')];
	}
	const {did, importMs, importMiB, storeMiB, startMs} = row;
	const numbers = [importMs?.toFixed(0) ?? '', importMiB.toFixed(1), storeMiB.toFixed(1), startMs.toFixed(1)];
	return [name, version, 'yes', inZygote, ...numbers, did.replaceAll('|', '\\|')];
}
