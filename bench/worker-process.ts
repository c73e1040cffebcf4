/** A process: a worker on the registry that its first argument names, with state in the second; it prints its URL. */
import process from 'node:process';
import {createWorker} from 'forktree/worker';

const [, , registry = '', stateDir = ''] = process.argv;
const worker = await createWorker({registry, stateDir, port: 0});
process.stdout.write(`${worker.url}\n`);
process.once('SIGTERM', () => void worker.close());
