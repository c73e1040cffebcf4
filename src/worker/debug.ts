/** A runtime's state in words, for people. */
import type {RuntimeStats} from '../index.ts';

/** One line for each function, its instances counted, and each zygote. */
export function describeRuntime({functions, zygotes, memory, isolation, python}: RuntimeStats): string {
	const {budgetMb, reservedMb, zygotesMb} = memory;
	const lines = [
		`python ${python.version}, isolation ${isolation.level}`,
		`memory: ${Math.round(reservedMb)} MiB reserved by instances and ${Math.round(zygotesMb)} MiB used by zygotes, of ${budgetMb} MiB`,
		'',
		`functions: ${functions.length}`,
		...functions.map(({name, ...counts}) => {
			const words = Object.entries(counts).map(([state, count]) => `${count} ${state}`);
			return `  ${name}: ${words.join(', ')}`;
		}),
		'',
		`zygotes: ${zygotes.length}`,
		...zygotes.map(({packages, modules, pid}) => {
			const state = pid === undefined ? 'not alive' : `pid ${pid}`;
			return `  ${packages === '' ? 'root' : packages}: ${state}, imports ${modules.join(', ') || 'nothing'}`;
		}),
	];
	return `${lines.join('\n')}\n`;
}
