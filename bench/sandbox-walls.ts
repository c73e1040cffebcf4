/** What Landlock's rules and the strict filter take, which a spare gets when it is handed over. */
import {execa} from 'execa';
import {benchProgram} from './programs.ts';
import {mark, type Part, percentile, Results} from './report.ts';

export async function measureWalls(count: number): Promise<Part> {
	const results = new Results();
	const {stdout} = await execa(await benchProgram('walls'), [String(count)]);
	const each = stdout.split('\n').map((line) => JSON.parse(line) as {landlockNs: number; filterNs: number});
	const ms = (ns: number) => ns / 1e6;
	results.series(
		'Landlock’s rules',
		each.map(({landlockNs}) => ms(landlockNs)),
	);
	results.series(
		'strict filter',
		each.map(({filterNs}) => ms(filterNs)),
	);
	const both = each.map(({landlockNs, filterNs}) => ms(landlockNs + filterNs));
	results.series('Landlock and filter', both);
	results.marks.push(
		mark('Landlock and filter at a spare’s hand-over, p50', percentile(both, 50) * 1000, '<=', 250, 'µs'),
	);
	return results;
}
