// The project as a whole: save it as one file, open one, take folders and the model out of it.

import { api } from "./api.js";
import { button, fail, h, icon, sheet, t, toast } from "./dom.js";

export function openProject(context) {
  const name = h("input", {
    type: "text",
    maxlength: 200,
    value: context.project.name,
    onchange: () => rename(context, name),
  });
  const link = (href, key, file) => h("a", { class: "button", href, download: file }, icon("down"), t(key));
  const file = h("input", {
    class: "unseen",
    type: "file",
    accept: ".zip",
    onchange: () => (dialog.close(), file.files[0] && openFile(context, file.files[0])),
  });
  const dialog = sheet(
    t("teach.project"),
    h("label", { class: "field" }, h("span", {}, t("teach.project.name")), name),
    h(
      "section",
      {},
      h("h3", {}, t("teach.project.file")),
      h("p", { class: "soft" }, t("teach.project.file.text")),
      h(
        "div",
        { class: "row" },
        link("/api/project/file", "teach.project.save", "project.imprint.zip"),
        h("label", { class: "button" }, icon("upload"), t("teach.project.open"), file),
      ),
    ),
    h(
      "section",
      {},
      h("h3", {}, t("teach.project.out")),
      h(
        "div",
        { class: "row" },
        link("/api/export/folder.zip", "teach.project.folders", "images.zip"),
        context.project.model?.version && link("/api/export/model.onnx", "gear.onnx", "model.onnx"),
      ),
    ),
  );
}

async function rename(context, input) {
  try {
    await api.patch("/api/project", { name: input.value });
    await context.refresh();
  } catch (problem) {
    input.value = context.project.name;
    fail(problem);
  }
}

/** Open a saved project in the place of this one; asks first where this one holds anything. */
export function openFile(context, blob) {
  const open = async () => {
    try {
      toast(t("teach.project.opening"));
      await api.send("/api/project/open", new Blob([blob], { type: "application/zip" }));
      await context.refresh();
      toast(t("teach.project.opened", { name: context.project.name }), {
        action: t("undo"),
        onaction: () => context.undo(),
      });
    } catch (problem) {
      fail(problem);
    }
  };
  if (!context.project.classes.some((each) => each.samples)) return open();
  const dialog = sheet(
    t("teach.project.replace"),
    h("p", {}, t("teach.project.replace.text")),
    h(
      "div",
      { class: "row" },
      button(t("teach.project.open"), () => (dialog.close(), open()), { kind: "button-primary" }),
      h(
        "a",
        { class: "button", href: "/api/project/file", download: "project.imprint.zip" },
        icon("down"),
        t("teach.project.save.first"),
      ),
      button(t("cancel"), () => dialog.close()),
    ),
  );
  return undefined;
}
