// The page: a form for each workflow made from its signature, the queue as it moves, and what has been made.
// Everything that comes from the server is put in as text, never as markup.

const $ = (id) => document.getElementById(id);
const PAGE = 24;
let token = sessionStorage.getItem("token") ?? "";
let position = null;
let cursor = null;
let workflows = [];
let shown = null;
let models = null; // of all kinds, asked for when a form first names one
const active = new Map(); // run id -> its row in the queue

async function call(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    await askForToken();
    return call(path, options);
  }
  return answer;
}

async function json(path, options) {
  const answer = await call(path, options);
  const document = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(document.detail), { problems: document.problems ?? [] });
  return document;
}

function post(path, body) {
  return json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}) });
}

function askForToken() {
  const dialog = $("token");
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      token = $("token-value").value;
      sessionStorage.setItem("token", token);
      resolve();
    }, { once: true });
  });
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A picture that needs a token cannot be named in `src`: it is fetched and shown from memory.
async function picture(image, path) {
  if (!token) {
    image.src = path;
    return;
  }
  const answer = await call(path);
  if (answer.ok) image.src = URL.createObjectURL(await answer.blob());
}

// The form

async function loadWorkflows() {
  workflows = (await json("v1/workflows")).workflows;
  $("workflow").replaceChildren(...workflows.map((w) => element("option", { value: w.name, textContent: w.name.replaceAll("_", " ") })));
  const first = workflows.find((w) => w.name === "text_to_image") ?? workflows[0];
  if (first) {
    $("workflow").value = first.name;
    await showWorkflow(first.name);
  }
}

async function showWorkflow(name, values = {}) {
  const form = $("inputs");
  try {
    shown = { ...(await json(`v1/workflows/${name}`)), id: name };
  } catch (error) {
    shown = null;
    form.replaceChildren(element("p", { className: "error", textContent: told(error) }));
    return;
  }
  $("about").textContent = shown.description;
  const fields = Object.entries(shown.inputs.properties).map(([key, schema]) => field(key, schema, values[key]));
  const go = element("button", { className: "go", textContent: "Run" });
  form.replaceChildren(...fields, go, element("p", { className: "error", id: "form-error" }));
  $("form-error").setAttribute("role", "alert");
  $("drawing").alt = `The graph of ${name}`;
  if ($("graph").open) drawGraph();
}

function drawGraph() {
  if (shown) picture($("drawing"), `v1/workflows/${shown.id}/graph`);
}

// Names to choose from; any other can be typed.
async function offer(list, kinds) {
  models ??= json("v1/models").then((told) => told.models, () => []);
  const fit = (await models).filter((model) => kinds.includes(model.kind) && !model.wrong);
  list.replaceChildren(...fit.map((model) => element("option", { value: model.name, label: model.family })));
}

function field(key, schema, value) {
  const id = `input-${key}`;
  const preset = value ?? schema.default;
  const limits = schema.maximum !== undefined && schema.maximum < 1e9 ? ` (${schema.minimum ?? ""} to ${schema.maximum})` : "";
  const type = [schema.type].flat()[0];
  let control;
  if (schema.enum) {
    control = element("select", {}, ...schema.enum.map((x) => element("option", { value: x, textContent: x })));
  } else if (schema.format === "image-file") {
    control = element("input", { type: "file", accept: "image/png,image/jpeg,image/webp" });
    control.dataset.preset = preset ?? "";
  } else if (type === "boolean") {
    control = element("input", { type: "checkbox", checked: Boolean(preset) });
  } else if (type === "integer" || type === "number") {
    control = element("input", { type: "number", step: type === "integer" ? "1" : "any", inputMode: "decimal" });
    if (schema.minimum !== undefined) control.min = schema.minimum;
    if (schema.maximum !== undefined) control.max = schema.maximum;
  } else if (key === "prompt" || key === "text") {
    control = element("textarea", { rows: 3 });
  } else {
    control = element("input", { type: "text" });
  }
  if (preset !== undefined && !["file", "checkbox"].includes(control.type)) control.value = preset;
  Object.assign(control, { id, name: key });
  const label = element("label", { htmlFor: id, textContent: key.replaceAll("_", " ") });
  const hint = `${schema.description ?? ""}${limits}`;
  if (hint.trim()) label.append(element("small", { textContent: hint }));
  const long = ["textarea", "file"].includes(control.type) || key === "negative";
  const made = element("div", { className: long ? "long" : "" }, label, control);
  if (schema.models) {
    const list = element("datalist", { id: `${id}-names` });
    control.setAttribute("list", list.id);
    made.append(list);
    offer(list, schema.models);
  }
  return made;
}

async function valueOf(control, schema) {
  const type = [schema.type].flat()[0];
  if (control.type === "checkbox") return control.checked;
  if (control.type === "file") {
    if (!control.files.length) return control.dataset.preset || undefined;
    const file = control.files[0];
    const kept = await json("v1/files", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
    return kept.file;
  }
  if (type === "integer" || type === "number") return control.value === "" ? undefined : Number(control.value);
  return control.value;
}

async function submit(event) {
  event.preventDefault();
  const problem = $("form-error");
  problem.textContent = "";
  try {
    const inputs = {};
    for (const [key, schema] of Object.entries(shown.inputs.properties)) {
      const value = await valueOf($(`input-${key}`), schema);
      if (value !== undefined) inputs[key] = value;
    }
    const run = await post(`v1/workflows/${shown.id}/runs`, inputs);
    row(run.id, run.workflow);
  } catch (error) {
    problem.textContent = told(error);
  }
}

function told(error) {
  const problems = error.problems ?? [];
  const lines = problems.map((p) => `${[p.node, p.port].filter(Boolean).join(".")}: ${p.message} ${p.hint ?? ""}`);
  return lines.length ? lines.join("\n") : error.message;
}

// The queue

function row(id, workflow) {
  if (active.has(id)) return active.get(id);
  const stop = element("button", { type: "button", textContent: "Cancel", ariaLabel: `Cancel ${workflow}` });
  stop.addEventListener("click", () => call(`v1/runs/${id}`, { method: "DELETE" }));
  const parts = {
    image: element("img", { alt: "" }),
    title: element("p", { textContent: workflow.replaceAll("_", " ") }),
    note: element("small", { textContent: "waiting" }),
    bar: element("progress", { max: 1, value: 0, ariaLabel: "Progress" }),
    node: "",
  };
  parts.title.append(" ", parts.note);
  parts.item = element("li", {}, parts.image, parts.title, stop, parts.bar);
  parts.item.dataset.run = id;
  active.set(id, parts);
  $("queue").append(parts.item);
  idle();
  return parts;
}

function idle() {
  $("idle").hidden = active.size > 0;
}

function done(id, event) {
  const parts = active.get(id);
  active.delete(id);
  if (event.event === "run_failed" && parts) {
    const first = event.problems?.[0];
    parts.note.textContent = "";
    parts.bar.replaceWith(element("p", { className: "error", textContent: first ? `${first.node ?? ""} ${first.message}` : "failed" }));
    setTimeout(() => parts.item.remove(), 15000);
  } else {
    parts?.item.remove();
  }
  idle();
  if (event.event === "run_finished") addToGallery(id);
}

function hear(event) {
  if (event.position !== undefined) position = event.position;
  if (event.event === "gap") {
    catchUp();
    return;
  }
  const id = event.run;
  if (event.event.startsWith("run_")) {
    done(id, event);
    return;
  }
  const parts = row(id, event.workflow ?? active.get(id)?.title.firstChild.textContent ?? "run");
  if (event.event === "planned") {
    parts.work = event.work.length;
    parts.through = 0;
    parts.note.textContent = `${event.work.length} to do, ${event.hits.length} known`;
  } else if (event.event === "node_started") {
    parts.note.textContent = event.node;
  } else if (event.event === "node_progress") {
    if (parts.node !== event.node) Object.assign(parts, { node: event.node, since: event.time, from: event.done });
    const through = event.done - parts.from; // since this page has been looking
    const left = through > 0 ? ((event.time - parts.since) / through) * (event.total - event.done) : 0;
    parts.note.textContent = `${event.node} ${event.done}/${event.total}${left > 1 ? `, ${Math.ceil(left)} s left` : ""}`;
    parts.bar.value = ((parts.through ?? 0) + event.done / event.total) / Math.max(1, parts.work ?? 1);
    if (event.preview) parts.image.src = event.preview;
  } else if (event.event === "node_note") {
    parts.title.append(element("small", { className: "note", textContent: event.note }));
  } else if (event.event === "node_finished") {
    parts.through = (parts.through ?? 0) + 1;
    parts.bar.value = parts.through / Math.max(1, parts.work ?? 1);
  }
}

async function catchUp() {
  for (const status of ["running", "queued"]) {
    for (const run of (await json(`v1/runs?status=${status}&limit=200`)).runs.reverse()) row(run.id, run.workflow);
  }
}

function listen() {
  const address = new URL("v1/events", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (position !== null) address.searchParams.set("after", position);
  const socket = new WebSocket(address, token ? ["graphengine", `token.${token}`] : ["graphengine"]);
  socket.addEventListener("open", () => { $("state").textContent = "connected"; });
  socket.addEventListener("message", (message) => message.data.split("\n").forEach((line) => hear(JSON.parse(line))));
  socket.addEventListener("close", () => {
    $("state").textContent = "connection lost, trying again";
    setTimeout(listen, 1000);
  });
}

// What has been made

async function addToGallery(id, last = false) {
  let run;
  try {
    run = await json(`v1/runs/${id}`);
  } catch {
    return;
  }
  const seen = new Set();
  for (const [name, items] of Object.entries(run.outputs)) {
    items.forEach((item, index) => {
      if (!item.digest || name === "files" || name.includes(".") || seen.has(item.digest)) return;
      seen.add(item.digest);
      const card = tile(run, `v1/runs/${run.id}/outputs/${name}/${index}`, item);
      if (last) $("gallery").append(card);
      else $("gallery").prepend(card);
    });
  }
}

function tile(run, path, item) {
  const title = String(run.inputs.prompt ?? run.workflow.replaceAll("_", " "));
  const image = element("img", { alt: title, loading: "lazy", width: item.width, height: item.height });
  picture(image, path);
  const notes = run.notes.map((told) => element("small", { textContent: told.note }));
  const button = element("button", { type: "button" }, image, element("span", { textContent: title }), ...notes);
  button.addEventListener("click", () => showRecipe(run, image, title));
  return element("li", {}, button);
}

function showRecipe(run, image, title) {
  const dialog = $("recipe");
  $("recipe-title").textContent = title;
  Object.assign($("recipe-picture"), { src: image.src, alt: title });
  Object.assign($("save"), { href: image.src, download: `${run.workflow}_${run.id}.png` });
  const facts = { workflow: run.workflow, ...run.inputs, made: new Date(run.ended * 1000).toLocaleString() };
  if (run.notes.length) facts.note = run.notes.map((note) => note.note).join("\n");
  $("recipe-inputs").replaceChildren(
    ...Object.entries(facts).flatMap(([key, value]) => [
      element("dt", { textContent: key }),
      element("dd", { textContent: typeof value === "object" ? JSON.stringify(value) : value }),
    ]),
  );
  dialog.returnValue = "";
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "again" || !workflows.some((w) => w.name === run.workflow)) return;
    $("workflow").value = run.workflow;
    await showWorkflow(run.workflow, run.inputs);
    $("inputs").querySelector("input, textarea, select")?.focus();
  }, { once: true });
  dialog.showModal();
}

async function loadGallery() {
  const page = await json(`v1/runs?status=finished&limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`);
  cursor = page.cursor;
  $("more").hidden = !cursor;
  for (const run of page.runs) await addToGallery(run.id, true);
}

async function showQueueState(state) {
  $("pause").hidden = false;
  $("pause").textContent = state.paused ? "Resume queue" : "Pause queue";
  $("pause").dataset.paused = state.paused;
}

$("workflow").addEventListener("change", (event) => showWorkflow(event.target.value));
$("inputs").addEventListener("submit", submit);
$("graph").addEventListener("toggle", drawGraph);
$("more").addEventListener("click", loadGallery);
$("pause").addEventListener("click", async () => {
  showQueueState(await post(`v1/queue/${$("pause").dataset.paused === "true" ? "resume" : "pause"}`));
});

await loadWorkflows();
showQueueState(await json("v1/queue"));
listen();
await catchUp();
await loadGallery();
