// Several tabs, or browsers, that show the same project.

import { api } from "./api.js";

const EVERY = 4000; // ms within which what another browser did shows; tabs of this one tell each other at once

const stamp = (project) => `${project?.revision} ${project?.model?.version} ${project?.model?.digest}`;

/** Keep a place's project as the server has it, but not while `busy()`; returns a function that ends it. */
export function keepTogether(context, busy = () => false) {
  const tabs = new BroadcastChannel("imprint");
  let seen = stamp(context.project);
  const refresh = () => context.refresh().catch(() => {});
  tabs.onmessage = refresh;
  const timer = setInterval(async () => {
    if (document.hidden || busy()) return;
    const now = await api.get("/api/project").catch(() => null);
    if (now && stamp(now) !== stamp(context.project)) refresh();
  }, EVERY);
  context.onProject(() => {
    const now = stamp(context.project);
    if (now !== seen) tabs.postMessage(now);
    seen = now;
  });
  return () => {
    tabs.close();
    clearInterval(timer);
  };
}
