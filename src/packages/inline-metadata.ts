/** Finds what a single Python file states of its packages in a comment, see PEP 723. */
import {invalidRequirements, type Place} from './requirement-lines.ts';
import {parseToml, type TomlTable} from './toml.ts';

const TYPE = 'script';
const START = /^# \/\/\/ ([a-zA-Z0-9-]+)$/;
const CONTENT = /^#(?: .*)?$/s;
const END = '# ///';

type Block = {
	/** Of the line that follows its first, counted from 1. */
	readonly line: number;
	/** Without the signs of comments. */
	readonly text: string;
};

/**
 * Reads the block of metadata of a script.
 * @param source the file's bytes, of any encoding that has ASCII in it, as Python's have
 * @returns `undefined` when there is no block
 * @throws {ForktreeError} `InvalidRequirements` for a second block, and one that is no TOML or not UTF-8.
 */
export function readInlineMetadata(source: Buffer, file: string): TomlTable | undefined {
	const [block, second] = findBlocks(source.toString('latin1'), TYPE);
	if (block === undefined) return undefined;
	if (second !== undefined) {
		throw invalidRequirements({file, line: second.line - 1}, `one block "# /// ${TYPE}"`, 'a second one');
	}
	return parseToml(decode(block, {file, line: block.line}), file, block.line);
}

/**
 * Finds what the regular expression of PEP 723 finds: a block ends at the last line `# ///` before one that is no comment of its
 * form. The expression itself takes time quadratic in the size of a hostile file, since it looks for that end once for each start.
 */
function findBlocks(source: string, type: string): Block[] {
	const lines = source.split(/\r\n|\r|\n/);
	const blocks: Block[] = [];
	for (let index = 0; index < lines.length; index += 1) {
		const found = START.exec(lines[index] ?? '')?.[1];
		if (found === undefined) continue;
		let end: number | undefined;
		let next = index + 1;
		for (; next < lines.length && CONTENT.test(lines[next] ?? ''); next += 1) if (lines[next] === END) end = next;
		// A block has content.
		if (end !== undefined && end > index + 1) {
			if (found === type)
				blocks.push({
					line: index + 2,
					text: lines
						.slice(index + 1, end)
						.map(uncomment)
						.join('\n'),
				});
			index = end;
		} else {
			// What starts further down has no other end.
			index = next - 1;
		}
	}
	return blocks;
}

function uncomment(line: string): string {
	return line.slice(line.startsWith('# ') ? 2 : 1);
}

function decode({text}: Block, place: Place): string {
	try {
		return new TextDecoder('utf-8', {fatal: true}).decode(Buffer.from(text, 'latin1'));
	} catch {
		throw invalidRequirements(place, 'UTF-8', 'other bytes');
	}
}
