// The gear, for engineers: this very picture by curl, the interface, the export, the token.

import { announce, button, download, h, icon, mount, sheet, t } from "./dom.js";

const INLINE = 16000; // bytes of a picture up to which the command holds it whole

const LOCAL = /^(localhost|127\.0\.0\.1|\[::1\])$/; // where answers need no token

const base64 = async (blob) =>
  btoa(Array.from(new Uint8Array(await blob.arrayBuffer()), (byte) => String.fromCharCode(byte)).join(""));

/** A command for this very picture: it holds a small one whole, and names the file of a larger one. */
async function command({ blob, name }) {
  const file = name.split("/").at(-1).replaceAll("'", "'\\''");
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
  const { current, model } = context;
  const part = (key, ...children) => h("section", {}, h("h3", {}, t(`gear.${key}`)), ...children);
  const link = (href, key, props) => h("a", { class: "button", href, ...props }, t(key));
  sheet(
    t("gear"),
    part(
      "curl",
      ...(current
        ? [
            code(await command(current), t("gear.curl")),
            current.blob.size > INLINE &&
              button(t("gear.save"), () => download(current.blob, current.name.split("/").at(-1)), { shape: "down" }),
          ]
        : [h("p", { class: "soft" }, t("gear.curl.none"))]),
    ),
    part("token", h("p", {}, t("gear.token.text"))),
    part(
      "api",
      h(
        "p",
        { class: "row" },
        link("/docs", "gear.docs", { target: "_blank" }),
        link("/openapi.json", "gear.openapi", { target: "_blank" }),
        link("/metrics", "gear.metrics", { target: "_blank" }),
      ),
    ),
    model &&
      part(
        "export",
        h("p", { class: "soft digest" }, t("gear.digest"), " ", h("code", {}, model.digest ?? model.model ?? "")),
        h(
          "p",
          { class: "row" },
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
