// HTTP with the server that this page came from, and with no other.

import { t } from "./dom.js";

/** What went wrong, in words: `title`, `detail` and the HTTP `status` (0: no answer came). */
export class Problem extends Error {
  constructor(status, { title, detail = "", ...members } = {}) {
    super(title);
    Object.assign(this, { status, title: title || t("problem.other"), detail, members });
  }
}

async function request(method, path, { json, body, headers = {}, signal } = {}) {
  if (json !== undefined) [body, headers] = [JSON.stringify(json), { "Content-Type": "application/json" }];
  let response;
  try {
    response = await fetch(path, { method, body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: t("problem.offline"), detail: t("problem.offline.remedy") });
  }
  const kind = response.headers.get("Content-Type") ?? "";
  const answer = kind.includes("json") ? await response.json() : response.status === 204 ? null : await response.blob();
  if (response.ok) return answer;
  const problem = new Problem(response.status, kind.includes("json") ? answer : {});
  problem.retryAfter = Number(response.headers.get("Retry-After")) || 0;
  throw problem;
}

function form(files, fields = {}) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  for (const file of files) data.append("file", file.blob ?? file, file.path ?? file.name ?? "picture");
  return data;
}

export const api = {
  get: (path, options) => request("GET", path, options),
  post: (path, json = {}, options) => request("POST", path, { json, ...options }),
  patch: (path, json) => request("PATCH", path, { json }),
  delete: (path) => request("DELETE", path),
  /** Files, blobs or {blob, path} as multipart, with further fields. */
  upload: (path, files, fields, options) => request("POST", path, { body: form(files, fields), ...options }),
  /** One picture of the page as the body itself. */
  send: (path, blob, options) =>
    request("POST", path, { body: blob, headers: { "Content-Type": blob.type || "image/png" }, ...options }),
  /** {label, confidence, unsure, why, probabilities} of a blob or a {blob, path}. Waits for a busy server. */
  async predict(picture, options) {
    for (let tries = 0; ; tries++) {
      try {
        const { model, predictions } = await (picture.path
          ? api.upload("/v1/predict", [picture], {}, options)
          : api.send("/v1/predict", picture, options));
        if (!predictions[0].probabilities) throw new Problem(422, predictions[0]);
        return { model, ...predictions[0] };
      } catch (problem) {
        if (problem.status !== 503 || tries === 4) throw problem;
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.max(problem.retryAfter, 1)));
      }
    }
  },
};

/** Call back with each state of the training until the returned function is called; polls where events do not come. */
export function watchTraining(callback) {
  let timer;
  const poll = async () => {
    const state = await api.get("/api/train").catch(() => null);
    if (timer === null) return;
    if (state) callback(state);
    timer = setTimeout(poll, 1000);
  };
  const events = new EventSource("/api/train/events");
  events.onmessage = (event) => callback(JSON.parse(event.data));
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED && timer === undefined) poll();
  };
  return () => {
    events.close();
    clearTimeout(timer);
    timer = null;
  };
}
