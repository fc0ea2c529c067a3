function draw(root, data) {
  // as XML, in which nothing but the picture's own elements can be
  const parsed = new DOMParser().parseFromString(data.svg, "image/svg+xml").documentElement;
  root.replaceChildren(document.importNode(parsed, true));
  const nodes = [...root.querySelectorAll("[data-node]")];
  nodes.forEach((node) => {
    node.setAttribute("role", "button");
    node.setAttribute("aria-label", node.querySelector("title").textContent);
  });
  root.onclick = (event) => {
    const node = event.target.closest("[data-node]");
    if (node) root.choose(Number(node.dataset.node));
  };
  root.onkeydown = (event) => {
    const here = nodes.indexOf(event.target);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (here < 0) return;
    if (step) {
      const next = nodes[Math.max(0, Math.min(nodes.length - 1, here + step))];
      nodes.forEach((node) => node.setAttribute("tabindex", node === next ? "0" : "-1"));
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      root.choose(Number(event.target.dataset.node));
    } else {
      return;
    }
    event.preventDefault();
  };
}

function mark(root, chosen) {
  const nodes = [...root.querySelectorAll("[data-node]")];
  const there = nodes.some((node) => Number(node.dataset.node) === chosen);
  nodes.forEach((node, i) => {
    const here = Number(node.dataset.node) === chosen;
    node.setAttribute("aria-pressed", String(here));
    node.setAttribute("tabindex", here || (!there && i === 0) ? "0" : "-1");
  });
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".picture");
  if (root.shown !== data.svg) {  // a click alone must not draw everything anew, nor lose the focus
    root.shown = data.svg;
    draw(root, data);
  }
  root.choose = (i) => { mark(root, i); setTriggerValue("picked", i); };
  mark(root, data.chosen);
}
