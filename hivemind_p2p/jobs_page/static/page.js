"use strict";
// Asks for the jobs every second and shows them. Whatever comes from elsewhere is put in as text, never as markup.

const EVERY = 1000; // milliseconds
const STATES = ["PENDING", "QUEUED", "ASSIGNED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];
let chosen = "";

const find = (id) => document.getElementById(id);

function element(kind, text, className) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

const words = (state) => state.toLowerCase().replace("_", " ");
const short = (peer) => (peer ? `…${peer.slice(-8)}` : "–");

function showCounts(counts) {
  const boxes = STATES.filter((state) => counts[state]).map((state) => {
    const box = document.createElement("div");
    box.append(element("dt", words(state)), element("dd", counts[state].toLocaleString("en")));
    return box;
  });
  find("counts").replaceChildren(...boxes);
}

function rowOf(job) {
  const row = document.createElement("tr");
  const name = document.createElement("td");
  const button = element("button", job.name || job.id, "job");
  button.type = "button";
  button.dataset.job = job.id;
  button.setAttribute("aria-pressed", String(job.id === chosen));
  name.append(button);
  const peer = element("td", short(job.peer));
  peer.title = job.peer;
  row.append(name, element("td", words(job.state), `state ${job.state}`), peer,
    element("td", job.seconds.toFixed(1), "number"), element("td", job.cost, "number"));
  return row;
}

function showJobs(jobs) {
  find("none").hidden = jobs.length > 0;
  document.querySelector("table").hidden = jobs.length === 0;
  const focused = document.activeElement?.dataset?.job;
  find("jobs").replaceChildren(...jobs.map(rowOf));
  if (focused) document.querySelector(`button[data-job="${CSS.escape(focused)}"]`)?.focus();
}

function showDetails(job) {
  find("details").hidden = false;
  find("name").textContent = `${job.name || "job"}: ${words(job.state)}`;
  find("job-id").textContent = job.id;
  find("error").textContent = job.error;
  find("history").replaceChildren(...job.history.map((change) => {
    const time = new Date(change.time * 1000).toLocaleTimeString("en-GB", { hour12: false });
    const item = element("li", `${time}  ${words(change.state)}${change.peer ? ` with ${short(change.peer)}` : ""}`);
    item.title = change.peer;
    return item;
  }));
  const output = find("output");
  const atEnd = output.scrollTop + output.clientHeight >= output.scrollHeight - 4;
  output.textContent = job.output || "Nothing so far.";
  if (atEnd) output.scrollTop = output.scrollHeight;
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  return answer.ok ? answer.json() : null;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const all = await ask("jobs");
    find("away").hidden = true;
    showCounts(all.counts);
    showJobs(all.jobs);
    const job = chosen && (await ask(`jobs/${encodeURIComponent(chosen)}`));
    if (job) showDetails(job);
  } catch {
    find("away").hidden = false;
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.job");
  if (!button) return;
  chosen = button.dataset.job;
  location.hash = chosen;
  refresh();
});

chosen = decodeURIComponent(location.hash.slice(1));
refresh();
setInterval(refresh, EVERY);
