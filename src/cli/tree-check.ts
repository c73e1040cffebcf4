/** Says in words which node a function gets. */
import type {NodeExplanation, NodeMatch, Obstacle, PackageCost} from '../index.ts';
import {count, formatTime} from './tree-figures.ts';
import {labelOf} from './tree-text.ts';

/** Of packages; the rest are counted. */
const maxListed = 8;
/** In one line. */
const maxEnumerated = 5;

/**
 * @param request the packages that are asked for
 * @param costs by package; where there are none, there is no time to speak of
 * @param conditional lines of the requirements that hold on some machines only
 */
export function describeNode(
	{node, missing, missingMs, nextBest, notUsable, unmeasured}: NodeExplanation,
	request: readonly string[],
	costs: ReadonlyMap<string, PackageCost>,
	conditional: readonly string[],
): string {
	const time = (milliseconds: number) => (costs.size === 0 ? '' : `, ${formatTime(milliseconds)}`);
	const msOf = (pin: string) => costs.get(pin)?.ms ?? 0;
	const costly = (pins: readonly string[]) =>
		list([...pins].sort((one, other) => msOf(other) - msOf(one)).map((pin) => pin + time(msOf(pin))));
	const lines = [
		[nameOf(node)],
		[`  loaded already: ${node.covered.length} of ${count(request.length, 'package')}${time(node.coveredMs)}`],
		costly(node.covered),
		[`  still to import: ${missing.length === 0 ? 'nothing' : count(missing.length, 'package') + time(missingMs)}`],
		costly(missing),
		nextBest === undefined ? [] : ['', `next best: ${nameOf(nextBest)}`, `  loaded already: ${loaded(nextBest, time)}`],
		...notUsable.map((match) => [
			'',
			`not usable: ${nameOf(match)}`,
			`  would have loaded: ${loaded(match, time)}`,
			...describeObstacles(match.obstacles),
		]),
		conditional.length === 0 ? [] : ['', 'taken as holding here, which depends on the machine:', ...list(conditional)],
		costs.size === 0 ? ['', 'each package counts the same, since --calls names no costs'] : [],
		costs.size === 0 || unmeasured.length === 0 ? [] : ['', 'without a known cost:', ...list(unmeasured)],
	];
	return `${lines.flat().join('\n')}\n`;
}

function describeObstacles(obstacles: readonly Obstacle[]): string[] {
	const others = obstacles.filter(({asked}) => asked !== undefined);
	const unasked = obstacles.flatMap(({loaded, asked}) => (asked === undefined ? [loaded] : []));
	return [
		...(others.length === 0 ? [] : ['  in the way, another version:']),
		...list(others.map(({loaded, asked}) => `${loaded} where ${asked} is asked for`)),
		...(unasked.length === 0 ? [] : [`  in the way, not asked for: ${enumerate(unasked)}`]),
	];
}

function loaded({covered, coveredMs}: NodeMatch, time: (milliseconds: number) => string): string {
	return count(covered.length, 'package') + time(coveredMs);
}

function nameOf({id, path}: NodeMatch): string {
	if (path.length === 0) return 'the root, without packages';
	return `node ${id}: ${path.map((packages) => labelOf({packages})).join(' > ')}`;
}

function list(items: readonly string[]): string[] {
	const shown = items.length > maxListed + 1 ? items.slice(0, maxListed) : items;
	const more = items.length - shown.length;
	return [...shown.map((item) => `    ${item}`), ...(more === 0 ? [] : [`    and ${more} more`])];
}

function enumerate(items: readonly string[]): string {
	const shown = items.slice(0, maxEnumerated);
	const more = items.length - shown.length;
	return shown.join(', ') + (more === 0 ? '' : ` and ${more} more`);
}
