"use strict";
// Keeps the page up to date and copies addresses. Without scripts the page is complete, only not live.

const EVERY = 3000; // milliseconds

function showCopyButtons() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("button.copy")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.text);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

async function refresh() {
  const selecting = !window.getSelection().isCollapsed || document.querySelector("#live :focus");
  if (document.hidden || selecting) return;
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("live").replaceWith(page.getElementById("live"));
    showCopyButtons();
  } catch {
    // The bootstrap is away for a moment: what stands on the page stays, and the next attempt follows.
  }
}

showCopyButtons();
setInterval(refresh, EVERY);
