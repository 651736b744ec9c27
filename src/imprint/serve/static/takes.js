// Takes: pictures on their way to the server. What it cannot take now is kept and sent again until it can.

import { api } from "./api.js";
import { fail, t, toast } from "./dom.js";

const BATCH = { files: 16, bytes: 8e6 };
const AGAIN = 1000; // ms after which the server is asked again

const size = (file) => (file.blob ?? file).size;
let underway = 0; // pictures that the server does not have yet
const leaving = (event) => event.preventDefault();
const listeners = new Set();

/** Call back with the number of pictures that the server does not have yet; returns a function that ends it. */
export function onWaiting(callback) {
  listeners.add(callback);
  return () => listeners.delete(callback);
}

function count(change, stuck = false) {
  const before = underway;
  underway += change;
  if (!before && underway) addEventListener("beforeunload", leaving);
  if (before && !underway) removeEventListener("beforeunload", leaving);
  for (const callback of listeners) callback(underway, stuck);
}

/** One take: `add` files to it while they come, `done` waits until all are saved and tells {added, problems}. */
export function newTake(ensureClass, kind) {
  const waiting = [];
  const result = { added: [], problems: [] };
  let [take, running] = [null, null];

  function batch() {
    let [end, bytes] = [0, 0];
    while (end < Math.min(waiting.length, BATCH.files) && (!end || bytes + size(waiting[end]) <= BATCH.bytes))
      bytes += size(waiting[end++]);
    return waiting.slice(0, end);
  }

  async function send() {
    while (waiting.length) {
      const files = batch();
      try {
        take ??= (await api.post("/api/takes", { class: await ensureClass(), kind })).id;
        const { added, problems } = await api.upload(`/api/takes/${take}/samples`, files);
        result.added.push(...added);
        result.problems.push(...problems);
      } catch (problem) {
        if ([0, 502, 503].includes(problem.status)) {
          count(0, true);
          await new Promise((resolve) => setTimeout(resolve, Math.max(AGAIN, 1000 * (problem.retryAfter ?? 0))));
          continue;
        }
        if (problem.status === 404 && take) {
          take = null; // undone, or not kept by a server that was ended
          continue;
        }
        count(-waiting.length);
        waiting.length = 0;
        throw problem;
      }
      waiting.splice(0, files.length);
      count(-files.length);
    }
    running = null;
  }

  return {
    kind,
    add(files) {
      waiting.push(...files);
      count(files.length);
      running ??= send();
      running.catch(() => {}); // told by done()
    },
    async done() {
      await running;
      return result;
    },
  };
}

/** Add files to a class as one take, and say what became of it. */
export async function addFiles(context, card, files, kind) {
  const take = newTake(card.ensure, kind);
  take.add(files);
  await told(context, card.name, take);
}

/** Wait for a take, and say what could not be added; of a recording, only where nothing could. */
export async function told(context, name, take) {
  try {
    const { added, problems } = await take.done();
    if (problems.length && !(added.length && take.kind === "camera"))
      toast(
        added.length ? t("teach.added.some", { n: added.length, name, first: problems[0].detail }) : problems[0].detail,
      );
    return added.length;
  } catch (problem) {
    fail(problem);
    return 0;
  } finally {
    await context.refresh().catch(() => {});
  }
}

/** Sort dropped files into folders, each a class, and those that lie in none; notes and the like are left. */
export function byFolder(files) {
  const folders = new Map();
  for (const file of files) {
    const parts = file.path.split("/").filter(Boolean);
    if (parts.at(-1).startsWith(".") || (file.blob.type && !file.blob.type.startsWith("image/"))) continue;
    const name = parts.at(-2) ?? "";
    if (!folders.has(name)) folders.set(name, []);
    folders.get(name).push(file);
  }
  const loose = folders.get("") ?? [];
  folders.delete("");
  return { folders, loose };
}
