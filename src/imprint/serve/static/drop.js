// Files that are dropped or pasted, with their paths where whole folders are.

async function entries(entry, path) {
  if (entry.isFile) {
    const blob = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ blob, path }];
  }
  const [reader, found] = [entry.createReader(), []];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 a time
    if (!some.length) return found;
    for (const each of some)
      if (!each.name.startsWith(".")) found.push(...(await entries(each, `${path}/${each.name}`)));
  }
}

/** The files of a drop or a paste as {blob, path}; path is "folder/file.jpg" where a folder was dropped. */
export async function transferred(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const roots = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile()); // all before the first await
  const found = await Promise.all(
    roots
      .filter(Boolean)
      .map((root) => (root instanceof File ? [{ blob: root, path: root.name }] : entries(root, root.name))),
  );
  return found.flat();
}

/** The files of an <input type="file"> as {blob, path}. */
export const chosen = (input) => [...input.files].map((blob) => ({ blob, path: blob.webkitRelativePath || blob.name }));

/** Call back with what is dropped on an element or pasted; returns a function that ends it. */
export function onFiles(element, callback) {
  const events = {
    dragover: (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      element.classList.add("dropping");
    },
    dragleave: (event) => element.contains(event.relatedTarget) || element.classList.remove("dropping"),
    drop: async (event) => {
      event.preventDefault();
      element.classList.remove("dropping");
      const files = await transferred(event.dataTransfer);
      if (files.length) callback(files, event);
    },
  };
  const paste = async (event) => {
    const files = await transferred(event.clipboardData);
    if (files.length) callback(files, event);
  };
  for (const [name, handler] of Object.entries(events)) element.addEventListener(name, handler);
  document.addEventListener("paste", paste);
  return () => {
    for (const [name, handler] of Object.entries(events)) element.removeEventListener(name, handler);
    document.removeEventListener("paste", paste);
  };
}
