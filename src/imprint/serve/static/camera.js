// The camera: off until asked for, square, and its tracks stopped when the page is left.

import { h, icon, t } from "./dom.js";

const REASONS = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotReadableError: "in-use",
  AbortError: "in-use",
  NotFoundError: "none",
  OverconstrainedError: "none",
};

export class CameraError extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/** Whether this page may open a camera at all: over plain http only on this computer. */
export const cameraPossible = () => Boolean(navigator.mediaDevices?.getUserMedia);

/**
 * Show a camera in a <video>. The preview is mirrored (by CSS) unless the camera looks away from the user; what
 * `capture` gives never is. Throws CameraError with `reason` denied, in-use, none or needs-https.
 */
export async function openCamera(video, { deviceId, onend } = {}) {
  if (!cameraPossible()) throw new CameraError("needs-https");
  const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" };
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { ...which, width: { ideal: 640 }, height: { ideal: 480 } },
    });
  } catch (error) {
    throw new CameraError(REASONS[error.name] ?? "none");
  }
  const [track] = stream.getVideoTracks();
  const stop = () => {
    removeEventListener("pagehide", stop);
    for (const each of stream.getTracks()) each.stop();
    if (video.srcObject === stream) video.srcObject = null;
  };
  track.addEventListener("ended", () => (stop(), onend?.()));
  addEventListener("pagehide", stop);
  const settings = track.getSettings();
  video.classList.toggle("mirrored", settings.facingMode !== "environment");
  Object.assign(video, { muted: true, playsInline: true, srcObject: stream });
  try {
    await video.play();
  } catch {
    stop(); // the video left the page, or another camera was chosen, while this one was starting
    throw new CameraError("in-use");
  }
  const devices = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput");

  /** The middle square, as the preview shows it, as a JPEG of at most `maxSide` pixels a side. */
  const capture = (maxSide = 320) => {
    const side = Math.min(video.videoWidth, video.videoHeight);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.min(side, maxSide);
    const corner = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
    canvas.getContext("2d").drawImage(video, ...corner, side, side, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  };
  return { devices, deviceId: settings.deviceId, capture, stop };
}

/** The sign that the camera is on. */
export const cameraLight = (...more) =>
  h("p", { class: "on" }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}, t("camera.on")), ...more);

/** A choice of another camera, where there is one. */
export const cameraChoice = ({ devices, deviceId }, onchoose) =>
  devices.length > 1 &&
  h(
    "select",
    { "aria-label": t("try.camera.choose"), onchange: (event) => onchoose(event.target.value) },
    ...devices.map((each, i) =>
      h(
        "option",
        { value: each.deviceId, selected: each.deviceId === deviceId },
        each.label || t("try.camera.number", { n: i + 1 }),
      ),
    ),
  );

/** «Take photo», by the system's own camera: `onphoto` gets the file input. */
export const photoButton = (onphoto, kind = "") =>
  h(
    "label",
    { class: `button ${kind}` },
    icon("camera"),
    t("try.photo"),
    h("input", {
      class: "unseen",
      type: "file",
      accept: "image/*",
      capture: "environment",
      onchange: (event) => onphoto(event.target),
    }),
  );
