// What the page cannot say in Python: keyboard, focus and the panel; identifiers before anything is sent; marks; what a screen
// reader hears; saving files. Sends nothing and stores nothing.
(() => {
  const find = (selector) => document.querySelector(selector);
  const fine = matchMedia("(pointer: fine)"); // on a touch screen, focus in the box would open the keyboard
  const box = () => find("#question textarea");
  const element = (name, text, properties = {}) => Object.assign(document.createElement(name), { textContent: text, ...properties });

  // ---- The panel ----

  let before = null; // where focus was when the panel was opened
  const drawer = (open) => {
    if (open && !document.body.hasAttribute("data-drawer")) before = document.activeElement;
    document.body.toggleAttribute("data-drawer", open);
    find("#toggle")?.setAttribute("aria-expanded", String(open));
    if (open) find("#close")?.focus();
    else (before?.isConnected && before !== document.body ? before : find("#toggle"))?.focus();
  };
  const tab = (name) => [...document.querySelectorAll('#drawer [role="tab"]')].find((one) => one.textContent.trim() === name)?.click();

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (find("#stop")) find("#stop").click();
    else if (document.body.hasAttribute("data-drawer")) drawer(false);
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#toggle")) drawer(!document.body.hasAttribute("data-drawer"));
    if (event.target.closest?.("#close")) drawer(false);
    for (const [button, name] of [["#rate", "Rate"], ["#to-save", "Details"]]) {
      if (!event.target.closest?.(button)) continue;
      drawer(true);
      tab(name);
    }
  });

  // These buttons vanish when they have been pressed; the box is where one goes on.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#send, #stop, #retry, #edit, #clear, #votes button, .sample");
    if (button && (fine.matches || button.id === "edit")) box()?.focus();
  });

  // ---- Identifiers: the same patterns as app/notices/identifiers.py ----

  const { parts, patterns } = JSON.parse(find("#identifier-patterns").textContent);
  const filled = (pattern) => pattern.replace(/<(\w+)>/g, (_, part) => `(?:${parts[part]})`);
  for (const part of Object.keys(parts)) parts[part] = filled(parts[part]); // a part names earlier ones
  const searches = patterns.map(({ label, pattern, flags = "", check }) => {
    return { label, check, search: new RegExp(filled(pattern), flags + "g") };
  });
  const isNhsNumber = (text) => {
    const digits = [...text].filter((letter) => letter >= "0" && letter <= "9").map(Number);
    if (digits.length !== 10 || new Set(digits).size === 1) return false;
    const sum = digits.slice(0, 9).reduce((total, digit, index) => total + digit * (10 - index), 0);
    return (11 - (sum % 11)) % 11 === digits[9];
  };
  const identifiers = (text) => {
    const found = [];
    for (const { label, check, search } of searches) {
      for (const match of text.matchAll(search)) {
        const [start, end] = [match.index, match.index + match[0].length];
        if (found.every((other) => end <= other.start || start >= other.end) && (!check || isNhsNumber(match[0]))) {
          found.push({ label, start, end });
        }
      }
    }
    return found.sort((one, other) => one.start - other.start);
  };

  let allowed = null; // a text that its writer sends as it is
  const write = (text) => {
    box().value = text;
    box().dispatchEvent(new Event("input", { bubbles: true }));
    box().focus();
  };
  const replaced = (text) =>
    identifiers(text).reverse().reduce((rest, { label, start, end }) => `${rest.slice(0, start)}[${label}]${rest.slice(end)}`, text);

  const unwarn = () => find("#identifiers")?.remove();
  const warn = (text, found) => {
    unwarn();
    const strip = element("div", "", { id: "identifiers", className: "strip notice" });
    strip.setAttribute("role", "alert");
    const labels = [...new Set(found.map(({ label }) => label))].join(", ");
    strip.append(element("p", `Nothing was sent: this may identify a patient (${labels}).`));
    const marked = element("p", "", { className: "marked" });
    let at = 0;
    for (const { start, end } of found) {
      marked.append(text.slice(at, start), element("mark", text.slice(start, end)));
      at = end;
    }
    marked.append(text.slice(at));
    const row = element("div", "", { className: "choices" });
    const replace = element("button", "Replace them", { id: "replace", type: "button" });
    const anyway = element("button", "Send as it is", { id: "send-anyway", type: "button" });
    replace.onclick = () => {
      write(replaced(box().value));
      unwarn();
    };
    anyway.onclick = () => {
      allowed = box().value;
      unwarn();
      find("#send")?.click();
    };
    row.append(replace, anyway);
    strip.append(marked, row);
    find("#ask").before(strip);
    replace.focus();
  };
  const held = (event) => {
    const text = box()?.value ?? "";
    const found = text === allowed ? [] : identifiers(text);
    if (!found.length) return unwarn();
    event.preventDefault();
    event.stopImmediatePropagation();
    warn(text, found);
  };
  // In the capture phase, before Gradio hears of it.
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === box()) held(event);
    },
    true,
  );
  document.addEventListener("click", (event) => event.target.closest?.("#send") && held(event), true);
  document.addEventListener("input", (event) => {
    if (event.target === box() && find("#identifiers") && !identifiers(box().value).length) unwarn();
  });

  // ---- Marks, announcements and files, whenever the page has changed ----

  const said = element("div", "", { id: "said", className: "unseen" });
  said.setAttribute("role", "status");
  const lastAnswer = () => [...document.querySelectorAll("#conversation .bot-row .message-content")].at(-1);

  const mark = () => {
    if (!globalThis.Highlight) return; // an older browser: the strip lists the same numbers
    const wanted = JSON.parse(find("#strips [data-marks]")?.dataset.marks ?? "[]");
    const ranges = [];
    const answer = lastAnswer();
    const walker = wanted.length && answer ? document.createTreeWalker(answer, NodeFilter.SHOW_TEXT) : null;
    while (walker?.nextNode()) {
      for (const piece of wanted) {
        for (let at = walker.currentNode.data.indexOf(piece); at >= 0; at = walker.currentNode.data.indexOf(piece, at + 1)) {
          const range = new Range();
          range.setStart(walker.currentNode, at);
          range.setEnd(walker.currentNode, at + piece.length);
          ranges.push(range);
        }
      }
    }
    CSS.highlights.set("not-in-cards", new Highlight(...ranges));
  };

  let busy = false;
  let saved = "";
  const changed = () => {
    // Gradio's log would have every piece of an answer read out; it is read once, when it is there.
    const log = find('#conversation [role="log"]');
    if (log && log.getAttribute("aria-live") !== "off") log.setAttribute("aria-live", "off");
    const now = Boolean(find("#stop"));
    if (busy && !now) {
      const sides = [...document.querySelectorAll("#sides .side")].map((side) => side.textContent).join(". ");
      said.textContent = `Answer: ${sides || lastAnswer()?.textContent || "none"}`;
    }
    if (now && !busy) said.textContent = "";
    busy = now;
    if (!now) mark();
    const link = find("#download a");
    if (link && link.href !== saved) link.click();
    saved = link?.href ?? "";
  };

  const name = () => {
    if (!box() || !find("#drawer") || !find("#toggle")) return requestAnimationFrame(name);
    find("#drawer").setAttribute("role", "region");
    find("#drawer").setAttribute("aria-label", "Evidence, details, rating and settings");
    find("#toggle").setAttribute("aria-expanded", "false");
    find("#toggle").setAttribute("aria-controls", "drawer");
    find("#close").setAttribute("aria-label", "Close");
    find("main").append(said);
    let waiting = false;
    new MutationObserver(() => {
      if (!waiting) requestAnimationFrame(() => ((waiting = false), changed()));
      waiting = true;
    }).observe(document.body, { subtree: true, childList: true });
    if (fine.matches) box().focus();
  };
  name();
})();
