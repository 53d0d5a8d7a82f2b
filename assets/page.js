// Keyboard, focus and the drawer: what the page cannot say in Python. Sends nothing and stores nothing.
(() => {
  const find = (selector) => document.querySelector(selector);
  const fine = matchMedia("(pointer: fine)"); // on a touch screen, focus in the box would open the keyboard
  const box = () => find("#question textarea");

  const drawer = (open) => {
    document.body.toggleAttribute("data-drawer", open);
    find("#toggle")?.setAttribute("aria-expanded", String(open));
    find(open ? "#close" : "#toggle")?.focus();
  };

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (find("#stop")) find("#stop").click();
    else if (document.body.hasAttribute("data-drawer")) drawer(false);
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#toggle")) drawer(!document.body.hasAttribute("data-drawer"));
    if (event.target.closest?.("#close")) drawer(false);
  });

  // These buttons vanish when they have been pressed; the box is where one goes on.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#send, #stop, #retry, #edit, #clear, .sample");
    if (button && (fine.matches || button.id === "edit")) box()?.focus();
  });

  const name = () => {
    if (!box() || !find("#drawer") || !find("#toggle")) return requestAnimationFrame(name);
    find("#drawer").setAttribute("role", "region");
    find("#drawer").setAttribute("aria-label", "Evidence, details and settings");
    find("#toggle").setAttribute("aria-expanded", "false");
    find("#toggle").setAttribute("aria-controls", "drawer");
    if (fine.matches) box().focus();
  };
  name();
})();
