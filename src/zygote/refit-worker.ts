/** Fits a tree anew on a thread of its own: what the thread is started with holds all that it needs. See replan.ts. */
import {parentPort, workerData} from 'node:worker_threads';
import type {FitInput, FitOptions} from './fit.ts';
import {refitTree} from './refit.ts';
import type {TreeNode} from './tree.ts';

/** The parameters of {@link refitTree}. */
export type RefitTask = {readonly tree: TreeNode; readonly input: FitInput; readonly options: FitOptions};

const {tree, input, options} = workerData as RefitTask;
parentPort?.postMessage(refitTree(tree, input, options));
