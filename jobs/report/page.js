"use strict";
(() => {
  const FIRST = 24;
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;

  const theme = byId("theme");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  if (theme) {
    theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    name();
  }

  const list = byId("cards");
  if (!list) return;
  const cards = [...list.children];
  const search = byId("search"), all = byId("all"), count = byId("count"), prompt = byId("prompt");
  const picks = [...document.querySelectorAll("select[data-tag]")];
  let details = null;  // megabytes of JSON, which most who open the page never ask for
  const texts = new Map(), tags = new Map(cards.map((card) => [card, new Set(card.dataset.tags.split("\n"))]));
  let whole = cards.length <= 2 * FIRST;

  const text = (card) => {
    if (!texts.has(card)) texts.set(card, (card.querySelector(".body").textContent + " " + card.dataset.id).toLowerCase());
    return texts.get(card);
  };
  const fits = (card, words) => words.every((word) => text(card).includes(word)) && picks.every((pick) => {
    if (!pick.value) return true;
    const own = tags.get(card);
    return pick.value === "*" ? [...own].some((tag) => tag.startsWith(pick.dataset.tag + ":")) : own.has(pick.dataset.tag + ":" + pick.value);
  }) && (!prompt || !prompt.value || tags.get(card).has("prompt:" + prompt.value));

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = prompt ? prompt.value : "";
    const narrowed = words.length > 0 || chosen || picks.some((pick) => pick.value);
    let found = 0;
    for (const card of cards) {
      const fit = fits(card, words);
      if (fit) found += 1;
      card.hidden = !fit || (!whole && !narrowed && found > FIRST);
      for (const said of card.querySelectorAll(".said")) said.hidden = Boolean(chosen) && said.dataset.prompt !== chosen;
    }
    count.textContent = narrowed ? found + " of " + cards.length : "";
    all.hidden = whole || Boolean(narrowed);
    all.textContent = "Show all " + cards.length;
    byId("nothing").hidden = found > 0;
    const shown = visible();
    for (const card of cards) card.tabIndex = -1;
    if (shown.length) shown[0].tabIndex = 0;
  };
  const visible = () => cards.filter((card) => !card.hidden);

  const clear = () => { search.value = ""; if (prompt) prompt.value = ""; for (const pick of picks) pick.value = ""; show(); };
  const focus = (card) => {
    for (const other of cards) other.tabIndex = -1;
    card.tabIndex = 0;
    card.focus();
    card.scrollIntoView({ block: "nearest" });
  };
  const across = (shown) => {
    const top = shown[0].offsetTop;
    return Math.max(1, shown.findIndex((card) => card.offsetTop !== top));
  };
  const walk = (key) => {
    const shown = visible(), at = shown.indexOf(document.activeElement.closest(".card"));
    if (!shown.length) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across(shown), ArrowUp: -across(shown), Home: -at, End: shown.length - 1 - at };
    focus(shown[at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + steps[key]))]);
  };

  // Browsers load data: pictures at once, whatever loading="lazy" says: those of later cards wait until they are near.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      for (const picture of target.querySelectorAll("img[data-src]")) {
        picture.src = picture.dataset.src;
        picture.removeAttribute("data-src");
      }
      near.unobserve(target);
    }
  }, { rootMargin: "1000px" });
  for (const card of cards) near.observe(card);

  list.addEventListener("toggle", (event) => {
    const more = event.target, card = more.closest(".card");
    card.classList.toggle("open", more.open);
    if (!more.open || more.querySelector("dl")) return;
    const pairs = document.createElement("dl");
    pairs.className = "pairs";
    details ??= JSON.parse(byId("details").textContent);
    for (const [key, said] of details[card.dataset.id] || []) {
      const line = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = key;
      value.textContent = said;
      value.dir = "auto";
      line.append(term, value);
      pairs.append(line);
    }
    more.append(pairs);
  }, true);

  document.addEventListener("keydown", (event) => {
    const at = document.activeElement, typing = at instanceof HTMLInputElement || at instanceof HTMLSelectElement;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      const open = at.closest && at.closest(".card.open");
      if (open) { open.querySelector(".more").open = false; open.focus(); } else { clear(); if (typing) at.blur(); }
    } else if (typing) {
      if (at === search && event.key === "ArrowDown") { event.preventDefault(); walk("Home"); }
    } else if (event.key === "/") {
      event.preventDefault();
      search.focus();
      search.scrollIntoView({ block: "center" });
    } else if (["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) {
      const inside = at.closest && at.closest(".card");
      if (at.classList.contains("strip") && event.key.startsWith("Arrow") && !event.key.endsWith("n") && !event.key.endsWith("p")) return;
      if (!inside && !event.key.startsWith("ArrowR") && !event.key.startsWith("ArrowL")) return;
      event.preventDefault();
      walk(event.key);
    } else if (event.key === "Enter" && at.classList.contains("card")) {
      const more = at.querySelector(".more");
      more.open = !more.open;
    }
  });
  search.closest("form").addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("input", show);
  for (const pick of [prompt, ...picks]) if (pick) pick.addEventListener("change", show);
  all.addEventListener("click", () => { whole = true; const next = visible().length; show(); if (cards[next]) focus(cards[next]); });
  show();
})();
