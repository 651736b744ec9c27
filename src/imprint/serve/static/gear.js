// The gear, for engineers: this very picture by curl, the interface, the export, the token.

import { api } from "./api.js";
import { announce, button, download, fail, h, icon, mount, sheet, t } from "./dom.js";

const INLINE = 16000; // bytes of a picture up to which the command holds it whole

const LOCAL = /^(localhost|127\.0\.0\.1|\[::1\])$/; // where answers need no token

const fileName = (path) => path.split("/").at(-1);

const base64 = async (blob) =>
  btoa(Array.from(new Uint8Array(await blob.arrayBuffer()), (byte) => String.fromCharCode(byte)).join(""));

/** A command for this very picture: it holds a small one whole, and names the file of a larger one. */
async function command({ blob, name }) {
  const file = fileName(name).replaceAll("'", "'\\''");
  const token = LOCAL.test(location.hostname) ? "" : '-H "Authorization: Bearer $IMPRINT_TOKEN" ';
  const send = `curl ${token}-H 'Content-Type: ${blob.type || "image/png"}' --data-binary`;
  const where = `${location.origin}/v1/predict`;
  if (blob.size > INLINE) return `${send} '@${file}' ${where}`;
  return `echo ${await base64(blob)} | base64 -d | ${send} @- ${where}`;
}

function code(text, label) {
  const copy = async () => {
    const selection = getSelection();
    selection.selectAllChildren(box);
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    announce(t("gear.copied"));
    mount(done, icon("check"), t("gear.copied"));
  };
  const box = h("pre", { tabindex: 0, "aria-label": label }, h("code", {}, text));
  const done = button(t("gear.copy"), copy, { shape: "copy" });
  return h("div", { class: "code" }, box, done);
}

export async function openGear(context) {
  const { current, model, project } = context;
  const part = (key, ...children) => h("section", {}, h("h3", {}, t(`gear.${key}`)), ...children);
  const row = (...children) => h("p", { class: "row" }, ...children);
  const page = (href, key) => h("a", { class: "button", href, target: "_blank" }, t(key));

  const picture = current
    ? [code(await command(current), t("gear.curl"))]
    : [h("p", { class: "soft" }, t("gear.curl.none"))];
  if (current?.blob.size > INLINE) {
    picture.push(button(t("gear.save"), () => download(current.blob, fileName(current.name)), { shape: "down" }));
  }
  const token = part("token", h("p", { class: "soft" }, t("gear.token.text")), button(t("gear.token.show"), show));
  async function show() {
    try {
      const given = await api.post("/api/session/code");
      const local = LOCAL.test(location.hostname);
      mount(
        token,
        h("h3", {}, t("gear.token")),
        code(`export IMPRINT_TOKEN=${given.token}`, t("gear.token")),
        h("p", {}, t(local ? "gear.phone.local" : "gear.phone")),
        !local && code(given.address, t("gear.phone")),
      );
      token.querySelector("pre").focus();
    } catch (problem) {
      fail(problem);
    }
  }
  sheet(
    t("gear"),
    part("curl", ...picture),
    token,
    part(
      "api",
      row(page("/docs", "gear.docs"), page("/openapi.json", "gear.openapi"), page("/metrics", "gear.metrics")),
    ),
    model &&
      part(
        "model",
        h("p", { class: "soft" }, "SHA-256 ", h("code", {}, model.model)),
        project?.model.version &&
          row(
            h(
              "a",
              { class: "button", href: "/api/export/model.onnx", download: "model.onnx" },
              icon("down"),
              t("gear.onnx"),
            ),
          ),
      ),
  );
}
