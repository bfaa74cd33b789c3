"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const list = $("cards");
  const cards = [...list.querySelectorAll("article")];
  const names = new Intl.Collator(undefined, { numeric: true });
  const filters = ["all", "anomalous", "normal"];

  // What needs a script is shown where there is one.
  for (const each of document.querySelectorAll(".tools, .toolbar")) each.hidden = false;

  // --- Which images are shown, and in which order. ---------------------------------------------

  const filterNow = () =>
    document.querySelector("input[name=filter]:checked")?.value ?? "all";
  const shown = () => cards.filter((card) => !card.parentElement.hidden);

  function show() {
    const filter = filterNow();
    const text = $("search").value.trim().toLowerCase();
    for (const card of cards) {
      const { verdict, id } = card.dataset;
      const fits = filter === "all" || verdict === filter;
      card.parentElement.hidden = !(fits && id.toLowerCase().includes(text));
    }
    const n = shown().length;
    const what = filter === "all" ? "" : `${filter} `;
    const all = n === cards.length ? "" : ` of ${cards.length}`;
    $("shown").textContent = `${n}${all} ${what}image${n === 1 && !all ? "" : "s"}`;
    $("none").hidden = n > 0;
  }

  function sort() {
    const score = (card) => Number(card.dataset.score);
    const orders = {
      high: (a, b) => score(b) - score(a),
      low: (a, b) => score(a) - score(b),
      id: (a, b) => names.compare(a.dataset.id, b.dataset.id),
    };
    cards.sort(orders[$("sort").value]);
    list.append(...cards.map((card) => card.parentElement));
  }

  function nextFilter() {
    const inputs = [...document.querySelectorAll("input[name=filter]")];
    if (!inputs.length) return;
    const next = filters[(filters.indexOf(filterNow()) + 1) % filters.length];
    inputs.find((input) => input.value === next).checked = true;
    show();
  }

  for (const input of document.querySelectorAll("input[name=filter]"))
    input.addEventListener("change", show);
  $("search").addEventListener("input", show);
  $("sort").addEventListener("change", sort);
  document.querySelector(".toolbar").addEventListener("submit", (event) => event.preventDefault());

  // --- The map over the pictures. --------------------------------------------------------------

  const opacity = $("opacity");
  let before = opacity.value;

  function setOpacity() {
    root.style.setProperty("--opacity", opacity.value / 100);
    opacity.setAttribute("aria-valuetext", `${opacity.value} percent`);
  }
  function switchMap() {
    if (Number(opacity.value) > 0) [before, opacity.value] = [opacity.value, 0];
    else opacity.value = before;
    setOpacity();
  }
  opacity.addEventListener("input", setOpacity);
  setOpacity();
  $("whole")?.addEventListener("change", (event) => {
    document.body.dataset.map = event.target.checked ? "all" : "above";
  });

  // --- Light and dark: what the system asks for, until the button says otherwise. ---------------

  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const sayTheme = () => $("theme").setAttribute("aria-pressed", isDark());

  function switchTheme() {
    root.dataset.theme = isDark() ? "light" : "dark";
    sayTheme();
  }
  $("theme").addEventListener("click", switchTheme);
  system.addEventListener("change", sayTheme);
  sayTheme();

  // --- Keys. -----------------------------------------------------------------------------------

  const keys = $("keys");
  const help = () => (keys.open ? keys.close() : keys.showModal());
  $("help").addEventListener("click", help);

  function move(step) {
    const all = shown();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement?.closest("article"));
    const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step;
    const card = all[Math.min(Math.max(next, 0), all.length - 1)];
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  const actions = {
    j: () => move(1),
    k: () => move(-1),
    ArrowRight: () => move(1),
    ArrowLeft: () => move(-1),
    f: nextFilter,
    m: switchMap,
    d: switchTheme,
    "/": () => $("search").focus(),
    "?": help,
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inField = event.target.closest?.("input, select, textarea");
    // A slider, a list and a field have their own use for most keys.
    if (inField && !(event.key === "?" && inField.type !== "search")) {
      if (event.key === "Escape" && inField.type === "search") inField.blur();
      return;
    }
    if (keys.open && event.key !== "?") return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
})();
