/**
 * Tracks one target through a video in the browser, with the files that `pjvlt-export` writes and ONNX Runtime Web.
 *
 * It does what `modeling_pjvlt/onnx/tracker.py` does in Python: the same crops, tokens and rules give the same boxes.
 * A server for static files is enough, and no video or sentence leaves the machine.
 *
 *     import { Model, Tracker, videoFrames } from "./pjvlt.js";
 *     const tracker = new Tracker(await Model.load("pjvlt-onnx"));
 *     for await (const { image, time } of videoFrames(video)) {
 *       if (!tracker.target) await tracker.start(image, [x, y, w, h], "white dog");
 *       else console.log(time, await tracker.step(image)); // {box: [x, y, w, h], score, lost}
 *     }
 *
 * An image is `ImageData`, or anything with width, height and data (RGBA, 8 bits). Pixel i covers [i, i + 1), and a
 * crop is {left, top, scale}: a position in it is (position in the frame - left) * scale.
 */

/** Where ONNX Runtime Web comes from: its module, beside which lie its .wasm files. */
export const RUNTIME = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/ort.wasm.min.mjs";

const SETTINGS_FILE = "pjvlt_onnx.json";
const MAPS = ["score_map", "offset_map", "size_map"];
const DEFAULT_SENTENCE = "the target"; // in place of an empty or missing sentence
const MAX_TOKENS = 40; // [CLS] and [SEP] included
const TRACKING_DEFAULTS = { window_weight: 1, size_smoothing: 0, lost_score: 0.2 };
const LOST_AFTER = 5; // frames
const GROWTH = 1.1; // of a lost target's search region, per frame
const MAX_GROWTH = 2;
const MIN_BOX_SIDE = 1; // pixels

// --- sentences

// The blanks of Python's `str.split` and of Rust's `char::is_whitespace`; JavaScript's \s differs a little.
const BLANKS = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
const WHITE_SPACE = /[\t-\r\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/u;
const PUNCTUATION = /[!-/:-@[-`{-~]|\p{P}/u;
const CHINESE = new RegExp(
  "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}" +
    "\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]",
  "gu",
);

/** The sentence without needless blanks; an empty one becomes "the target". Throws for anything but valid text. */
export function cleanSentence(text) {
  if (text !== null && text !== undefined && typeof text !== "string") {
    throw new TypeError(`A target has one sentence, a string, got ${typeof text}.`);
  }
  if (/\p{Surrogate}/u.test(text ?? "")) throw new Error("The sentence holds half a character: type it again.");
  return (text ?? "").split(BLANKS).filter(Boolean).join(" ") || DEFAULT_SENTENCE;
}

/** The WordPiece tokenizer of BERT, from the tokenizer.json of an export. It differs from the one in Python only for a
 * few rare characters, which Unicode added after 2016 and which that one does not know. */
export class Tokenizer {
  constructor(description) {
    const { normalizer, pre_tokenizer: split, model, post_processor: around, added_tokens: added } = description;
    const kinds = [normalizer?.type, split?.type, model?.type, around?.type].join(", ");
    if (kinds !== "BertNormalizer, BertPreTokenizer, WordPiece, TemplateProcessing") {
      throw new Error(`The page reads the tokenizer of BERT only; this export's consists of ${kinds}.`);
    }
    this.normalizer = normalizer;
    this.model = model;
    this.vocabulary = new Map(Object.entries(model.vocab));
    this.added = new Map(added.map((token) => [token.content, token.id]));
    const names = [...this.added.keys()].sort((one, other) => other.length - one.length);
    const escaped = names.map((name) => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
    this.addedPattern = new RegExp(`(${escaped.join("|")})`, "u");
    this.template = around.single.map((part) =>
      part.SpecialToken ? around.special_tokens[part.SpecialToken.id].ids : null,
    );
  }

  /** Token ids of a sentence, at most 40; a longer one keeps its last token, which is [SEP]. */
  encode(sentence) {
    const words = sentence.split(this.addedPattern).flatMap((part, place) =>
      place % 2 ? [this.added.get(part)] : this.words(this.normalize(part)).flatMap((word) => this.pieces(word)),
    );
    const ids = this.template.flatMap((special) => special ?? words);
    return ids.length <= MAX_TOKENS ? ids : [...ids.slice(0, MAX_TOKENS - 1), ids.at(-1)];
  }

  normalize(text) {
    const { clean_text: clean, handle_chinese_chars: chinese, strip_accents: strip, lowercase } = this.normalizer;
    if (clean) {
      text = text.replace(/[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu, "");
      text = Array.from(text, (letter) => (WHITE_SPACE.test(letter) ? " " : letter)).join("");
    }
    if (chinese) text = text.replace(CHINESE, " $& ");
    if (strip ?? lowercase) text = text.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lowercase ? Array.from(text, (letter) => letter.toLowerCase()).join("") : text;
  }

  words(text) {
    const words = [];
    let open = false; // whether the next letter belongs to the last word
    for (const letter of text) {
      const blank = WHITE_SPACE.test(letter);
      const alone = PUNCTUATION.test(letter);
      if (open && !blank && !alone) words[words.length - 1] += letter;
      else if (!blank) words.push(letter);
      open = !blank && !alone;
    }
    return words;
  }

  pieces(word) {
    const { unk_token: unknown, continuing_subword_prefix: prefix, max_input_chars_per_word: longest } = this.model;
    const letters = Array.from(word);
    const ids = [];
    for (let start = 0, stop; start < letters.length && letters.length <= longest; start = stop) {
      let id;
      for (stop = letters.length; stop > start && id === undefined; ) {
        id = this.vocabulary.get((start ? prefix : "") + letters.slice(start, stop).join(""));
        if (id === undefined) stop -= 1;
      }
      if (id === undefined) return [this.vocabulary.get(unknown)];
      ids.push(id);
    }
    return letters.length <= longest ? ids : [this.vocabulary.get(unknown)];
  }
}

// --- crops

/** The square of side ceil(sqrt(w h) factor) around a box [x, y, w, h], scaled to `size` pixels. */
export function cropGeometry([x, y, w, h], factor, size) {
  const side = Math.max(Math.ceil(Math.sqrt(w * h) * factor), 1);
  return { left: x + w / 2 - side / 2, top: y + h / 2 - side / 2, scale: size / side };
}

/** Sum of max(0, 1 - |centre - k| / support) over all integers k. */
function triangleMass(centre, support) {
  const [low, middle, high] = [Math.ceil(centre - support), Math.floor(centre), Math.floor(centre + support)];
  const below = (middle - low + 1) * (1 - (centre - (low + middle) / 2) / support);
  return below + (high - middle) * (1 - ((middle + 1 + high) / 2 - centre) / support);
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** How one axis of a crop is resampled from `length` source pixels: it reads those from first to last, and for each
 * output pixel `count` weights from its place on. The weights are normalised over all pixels, including those outside,
 * which are black. */
function axisTaps(start, scale, size, length) {
  const support = Math.max(1, 1 / scale);
  const first = clamp(Math.floor(start - support), 0, length);
  const last = clamp(Math.ceil(start + size / scale + support), first, length);
  const count = Math.trunc(Math.min(2 * support + 2, last - first));
  const places = new Int32Array(size);
  const weights = new Float32Array(size * count);
  for (let i = 0; i < size; i++) {
    const centre = start + (i + 0.5) / scale;
    const peak = 1 / triangleMass(centre - 0.5, support);
    const place = clamp(Math.floor(centre - support), first, last - count);
    places[i] = place - first;
    for (let k = 0; k < count; k++) {
      weights[i * count + k] = Math.max(1 - Math.abs(centre - 0.5 - (place + k)) / support, 0) * peak;
    }
  }
  return { first, last, count, places, weights };
}

/** A crop of an image, black outside of it: (3, size, size) in a Float32Array of values from 0 to 255. */
export function cropImage(image, { left, top, scale }, size) {
  const rows = axisTaps(top, scale, size, image.height);
  const columns = axisTaps(left, scale, size, image.width);
  const crop = new Float32Array(3 * size * size);
  const width = columns.last - columns.first;
  if (width <= 0 || rows.last <= rows.first) return crop;
  const line = new Float32Array(3 * width); // one row of the crop in the columns of the frame
  for (let y = 0; y < size; y++) {
    line.fill(0);
    for (let k = 0; k < rows.count; k++) {
      const weight = rows.weights[y * rows.count + k];
      if (weight === 0) continue;
      let from = 4 * ((rows.first + rows.places[y] + k) * image.width + columns.first);
      for (let to = 0; to < line.length; to += 3, from += 4) {
        line[to] += weight * image.data[from];
        line[to + 1] += weight * image.data[from + 1];
        line[to + 2] += weight * image.data[from + 2];
      }
    }
    for (let x = 0; x < size; x++) {
      let [red, green, blue] = [0, 0, 0];
      for (let k = 0, from = 3 * columns.places[x]; k < columns.count; k++, from += 3) {
        const weight = columns.weights[x * columns.count + k];
        red += weight * line[from];
        green += weight * line[from + 1];
        blue += weight * line[from + 2];
      }
      const to = y * size + x;
      crop[to] = red;
      crop[to + size * size] = green;
      crop[to + 2 * size * size] = blue;
    }
  }
  return crop;
}

/** A box inside a frame, at least one pixel wide and high. */
export function clipBox([x, y, w, h], width, height) {
  let [left, right] = [clamp(x, 0, width), clamp(x + w, 0, width)];
  let [top, bottom] = [clamp(y, 0, height), clamp(y + h, 0, height)];
  left = Math.min(left, width - MIN_BOX_SIDE);
  top = Math.min(top, height - MIN_BOX_SIDE);
  return [left, top, Math.max(right - left, MIN_BOX_SIDE), Math.max(bottom - top, MIN_BOX_SIDE)];
}

/** Throws for a box that is not [x, y, w, h]: finite, wider and higher than 0, and at least partly on the frame. */
function checkBox(box, { width, height }) {
  const [x, y, w, h] = box;
  const shown = `The box ${Array.from(box).join(" ")} (x y w h)`;
  if (box.length !== 4 || !Array.from(box).every(Number.isFinite)) throw new Error(`${shown} is not four numbers.`);
  if (w <= 0 || h <= 0) throw new Error(`${shown} must be wider and higher than 0.`);
  if (x >= width || y >= height || x + w <= 0 || y + h <= 0) {
    throw new Error(`${shown} lies outside the frame of ${width} x ${height} pixels.`);
  }
}

// --- the model

/** An exported model; any number of trackers can share it. */
export class Model {
  /** Read the folder that `pjvlt-export` wrote. `runtime`: address of ONNX Runtime Web. `report` is called with the
   * name of each file before it is read. Throws if the folder holds no export that a browser can run. */
  static async load(folder, { runtime = RUNTIME, report = () => {} } = {}) {
    const base = new URL(`${String(folder).replace(/\/+$/, "")}/`, globalThis.location?.href);
    const model = new Model();
    model.settings = await (await read(base, SETTINGS_FILE, report)).json();
    if (model.settings.format !== "onnx") {
      throw new Error(`${base} is an export to ${model.settings.format}; a browser needs pjvlt-export --format onnx.`);
    }
    report("ONNX Runtime");
    const address = new URL(runtime, globalThis.location?.href);
    try {
      model.runtime = await import(address.href);
    } catch (error) {
      throw new Error(`ONNX Runtime Web cannot be loaded from ${address}: ${error.message}`);
    }
    model.runtime.env.wasm.wasmPaths = new URL(".", address).href;
    model.runtime.env.wasm.numThreads = 1; // more threads need a server that isolates the page
    const graph = async (name) => {
      const bytes = await (await read(base, name, report)).arrayBuffer();
      return model.runtime.InferenceSession.create(new Uint8Array(bytes));
    };
    if (model.settings.uses_language) {
      model.tokenizer = new Tokenizer(await (await read(base, "tokenizer.json", report)).json());
      model.text = await graph("text.onnx");
    }
    model.template = await graph("template.onnx");
    model.tracker = await graph("tracker.onnx");
    return model;
  }

  /** The constants of a sentence, which text.onnx gives and tracker.onnx takes; nothing for a model without language. */
  async encodeText(sentence) {
    if (!this.text) return {};
    const ids = this.tokenizer.encode(cleanSentence(sentence));
    const row = (values) => new this.runtime.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
    return this.text.run({ input_ids: row(ids), attention_mask: row(ids.map(() => 1)) }, this.text.outputNames);
  }

  /** The constants of a template crop: `template`. */
  async encodeTemplate(image, box) {
    const { template_factor: factor, template_size: size } = this.settings;
    const pixels = this.crop(image, cropGeometry(box, factor, size), size);
    return this.template.run({ template_pixel_values: pixels }, ["template"]);
  }

  /** A crop as the network takes it: (1, 3, size, size), normalised. */
  crop(image, geometry, size) {
    const values = cropImage(image, geometry, size);
    const { scale, shift } = this.settings;
    for (let i = 0; i < values.length; i++) {
      const channel = Math.floor(i / (size * size));
      values[i] = values[i] * scale[channel] - shift[channel];
    }
    return new this.runtime.Tensor("float32", values, [1, 3, size, size]);
  }
}

async function read(base, name, report) {
  report(name);
  const address = new URL(name, base);
  const response = await fetch(address).catch((error) => error);
  if (response instanceof Error || !response.ok) {
    const reason = response instanceof Error ? response.message : `the server says ${response.status}`;
    const advice = "make the folder with pjvlt-export and serve it with the page";
    throw new Error(`${address} cannot be read (${reason}): ${advice}.`);
  }
  return response;
}

/** The Hann window 0.5 (1 - cos(2 pi k / (size + 1))) in both axes, with a weight from 0 to 1. */
function hannWindow(size, weight) {
  const line = Array.from({ length: size }, (_, k) => 0.5 * (1 - Math.cos((2 * Math.PI * (k + 1)) / (size + 1))));
  return Float32Array.from({ length: size * size }, (_, cell) => {
    return weight * Math.fround(line[Math.floor(cell / size)] * line[cell % size]) + (1 - weight);
  });
}

/** The box at the highest score under the window, [cx, cy, w, h] in crop fractions, and its score without it. */
function decode(scores, offsets, sizes, window, grid) {
  let best = 0;
  for (let cell = 1; cell < scores.length; cell++) {
    if (Math.fround(scores[cell] * window[cell]) > Math.fround(scores[best] * window[best])) best = cell;
  }
  const [column, row, next] = [best % grid, Math.floor(best / grid), best + grid * grid];
  const [cx, cy] = [(column + offsets[best]) / grid, (row + offsets[next]) / grid];
  return { fractions: [cx, cy, sizes[best], sizes[next]], score: scores[best] };
}

// --- the tracker

/** Tracks one target, like a session with `redetect="local"`: a target whose score stays low for some frames is lost,
 * and is searched where it was last seen, in a region that grows. */
export class Tracker {
  /** Options: `windowWeight`, `sizeSmoothing`, `lostScore`; by default those of the export. `lostAfter`: frames. */
  constructor(model, { windowWeight, sizeSmoothing, lostScore, lostAfter = LOST_AFTER } = {}) {
    const settings = { ...TRACKING_DEFAULTS, ...model.settings };
    this.model = model;
    this.sizeSmoothing = sizeSmoothing ?? settings.size_smoothing;
    this.lostScore = lostScore ?? settings.lost_score;
    this.lostAfter = lostAfter;
    this.window = hannWindow(settings.grid, windowWeight ?? settings.window_weight);
    this.target = null;
  }

  /** Start with the target in a box [x, y, w, h] of an image; `step` tracks it. Throws for a box that is not on it. */
  async start(image, box, text) {
    checkBox(box, image);
    const inputs = { ...(await this.model.encodeTemplate(image, box)), ...(await this.model.encodeText(text)) };
    const { width, height } = image;
    // box: around which the target is searched; seen: the last box whose score was not low
    this.target = { inputs, width, height, box: [...box], seen: [...box], low: 0, growth: 1 };
  }

  /** Find the target in the next image: {box, score, lost}. Throws for an image of another size. */
  async step(image) {
    const target = this.target;
    if (!target) throw new Error("There is no target yet: call `start` first.");
    if (image.width !== target.width || image.height !== target.height) {
      throw new Error(
        `The frame is ${image.width} x ${image.height} pixels, but the target was given in one of ` +
          `${target.width} x ${target.height}: all frames of a video must have one size.`,
      );
    }
    const { search_factor: factor, search_size: size, grid } = this.model.settings;
    const crop = cropGeometry(target.box, factor * target.growth, size);
    const pixels = this.model.crop(image, crop, size);
    const maps = await this.model.tracker.run({ pixel_values: pixels, ...target.inputs }, MAPS);
    const { fractions, score } = decode(...MAPS.map((name) => maps[name].data), this.window, grid);
    const [cx, cy, w, h] = fractions.map((value) => (value * size) / crop.scale);
    const predicted = clipBox([crop.left + cx - w / 2, crop.top + cy - h / 2, w, h], image.width, image.height);
    const box = this.smoothed(target.box, predicted);
    return { box, score, lost: this.follow(box, score) };
  }

  /** The box with the same middle, and with sides nearer to those of the previous box. */
  smoothed(before, [x, y, w, h]) {
    const kept = this.sizeSmoothing;
    if (kept === 0) return [x, y, w, h];
    const width = before[2] ** kept * w ** (1 - kept);
    const height = before[3] ** kept * h ** (1 - kept);
    return [x + (w - width) / 2, y + (h - height) / 2, width, height];
  }

  /** Decide where the target is searched next. Returns whether it is lost. */
  follow(box, score) {
    const target = this.target;
    target.low = score < this.lostScore ? target.low + 1 : 0;
    if (target.low === 0) target.seen = box;
    const lost = target.low >= this.lostAfter;
    target.box = lost ? target.seen : box;
    target.growth = lost ? Math.min(target.growth * GROWTH, MAX_GROWTH) : 1;
    return lost;
  }
}

// --- videos

/** Every frame of a <video>, in order: {image, time}, time in seconds. The video plays from frame to frame, and seeks
 * a frame that it skipped. Throws if the browser cannot show the frames one by one. */
export async function* videoFrames(video) {
  const player = new Player(video);
  try {
    let interval = await player.interval();
    let last = (await player.at(0, Infinity, SHORT_WAIT)) ?? player.grab(0); // null if the video already shows it
    for (let frame = last; frame; ) {
      last = frame;
      yield last;
      do frame = await player.next();
      while (frame && frame.time <= last.time);
      let missed = null;
      if ((frame?.time ?? video.duration) - last.time > 1.5 * interval) {
        missed = await player.at(last.time + 1.5 * interval);
        if (missed?.time > last.time) frame = missed;
      }
      video.playbackRate = clamp(video.playbackRate * (missed ? SLOWER : FASTER), SLOWEST, 1);
      if (frame) interval = Math.min(interval, frame.time - last.time);
    }
  } finally {
    player.stop();
  }
}

const [SLOWEST, SLOWER, FASTER] = [1 / 8, 0.7, 1.03]; // slowest playback rate, and the factors that change the rate
const FIRST_FRAMES = 5; // frames that show the interval between frames
const [SHORT_WAIT, LONG_WAIT] = [100, 1000]; // milliseconds to wait for a frame after a seek

/** Ignore the error of a video that is paused before it starts to play. */
function ignoreAbort(error) {
  if (error.name !== "AbortError") throw error;
}

/** Plays a <video>, or seeks in it, and keeps the frames that it shows. */
class Player {
  constructor(video) {
    if (!video.requestVideoFrameCallback) {
      throw new Error("This browser cannot show the frames of a video one by one; use a newer one.");
    }
    this.video = video;
    this.waiting = [];
    this.wake = () => {};
    this.canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.notice = () => this.wake();
    for (const event of ["seeked", "ended", "error"]) video.addEventListener(event, this.notice);
    video.muted = true; // without a click, browsers play only muted videos
    this.watch();
  }

  watch() {
    this.handle = this.video.requestVideoFrameCallback((now, { mediaTime: time }) => {
      this.waiting.push(this.grab(time));
      this.video.pause(); // until the next frame is needed
      this.watch();
      this.wake();
    });
  }

  grab(time) {
    const { width, height } = this.canvas;
    this.context.drawImage(this.video, 0, 0, width, height);
    return { image: this.context.getImageData(0, 0, width, height), time };
  }

  /** Wait for an event of the video, or for some milliseconds. */
  async change(milliseconds = Infinity) {
    if (this.video.error) throw new Error(`The video cannot be decoded: ${this.video.error.message}`);
    let timer;
    await new Promise((resolve) => {
      this.wake = resolve;
      if (milliseconds < Infinity) timer = setTimeout(resolve, milliseconds);
    });
    clearTimeout(timer);
    if (this.video.error) throw new Error(`The video cannot be decoded: ${this.video.error.message}`);
  }

  /** The next frame as the video plays; null at its end. */
  async next() {
    while (!this.waiting.length) {
      if (this.video.ended) return null;
      if (this.video.paused) await this.video.play().catch(ignoreAbort);
      if (!this.waiting.length && !this.video.ended) await this.change();
    }
    return this.waiting.shift();
  }

  /** The shortest interval between the first frames, in seconds; for a single frame, the length of the video. */
  async interval() {
    await this.at(0, Infinity, SHORT_WAIT);
    this.video.playbackRate = SLOWEST;
    const times = [];
    for (let frame; times.length < FIRST_FRAMES && (frame = await this.next()); ) times.push(frame.time);
    this.video.playbackRate = 1;
    const gaps = times.slice(1).map((time, place) => time - times[place]);
    return Math.min(this.video.duration, ...gaps.filter((gap) => gap > 0));
  }

  /** The frame at a time, which began at `latest` or before; null if the browser shows none within `wait` ms. */
  async at(time, latest = time, wait = LONG_WAIT) {
    this.video.pause();
    this.waiting = [];
    this.video.currentTime = time;
    const shown = () => this.waiting.findLast((frame) => frame.time <= latest);
    while (this.video.seeking) await this.change();
    for (let end = performance.now() + wait; !shown() && performance.now() < end; ) await this.change(wait);
    const frame = shown() ?? null;
    this.waiting = [];
    return frame;
  }

  stop() {
    this.video.pause();
    this.video.cancelVideoFrameCallback(this.handle);
    for (const event of ["seeked", "ended", "error"]) this.video.removeEventListener(event, this.notice);
  }
}

// --- results

/** The result of a frame: its box is clipped to the frame and rounded to hundredths of a pixel. */
export function makeResult(frame, time, { box, score, lost }, { width, height }) {
  const rounded = clipBox(box, width, height).map((value) => Number(value.toFixed(2)));
  return { frame, box: rounded, score: Number(score.toFixed(4)), time, lost };
}

/** Results {frame, box, score, time, lost} of a video as the CSV that `pjvlt-track` writes. */
export function toCsv(results) {
  const lines = results.map(({ frame, box, score, time, lost }) => {
    const numbers = [...box.map((value) => value.toFixed(3)), score.toFixed(4), time.toFixed(4)];
    return [frame, ...numbers, Number(lost), 0].join(",");
  });
  return `frame,x,y,w,h,score,time,lost,redetected\n${lines.map((line) => `${line}\n`).join("")}`;
}

/** The same as JSON, with {video, model, text, fps} in front. */
export function toJson(head, results) {
  const round = (value, digits) => Number(value.toFixed(digits));
  const lines = results.map(({ frame, box, score, time, lost }) =>
    JSON.stringify({
      frame,
      box: box.map((value) => round(value, 3)),
      score: round(score, 4),
      time: round(time, 4),
      ...(lost && { lost }),
    }),
  );
  return `${JSON.stringify(head).slice(0, -1)},"frames":[\n${lines.join(",\n")}\n]}\n`;
}
