function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function draw(root, data, choose) {
  root.replaceChildren(...data.rows.map((row) => {
    const line = element("div", "row", "");
    line.setAttribute("role", "listbox");
    line.setAttribute("aria-label", row.about);
    line.setAttribute("aria-orientation", "horizontal");
    if (row.name) line.append(element("span", "name", row.name));
    data.pieces.forEach((piece, i) => {
      // part of a character: nothing to see, but something to click
      const shown = data.shown[i] || (i < data.first || row.numbers[i] ? "" : "◌");
      const token = element("span", i < data.first ? "" : "token", shown);
      if (row.numbers[i]) token.append(element("span", "code", row.numbers[i]));
      if (piece.includes("\n")) token.append("\n");
      token.style.cssText = row.styles[i];
      if (row.titles[i]) token.title = row.titles[i];
      line.append(token);
      if (i < data.first) return;
      token.dataset.token = i;
      token.setAttribute("role", "option");
      token.setAttribute("aria-label", [data.shown[i], row.titles[i]].filter(Boolean).join(", "));
    });
    line.onclick = (event) => {
      const token = event.target.closest(".token");
      if (token) choose(Number(token.dataset.token));
    };
    line.onkeydown = (event) => {
      const tokens = [...line.querySelectorAll(".token")];
      const here = tokens.indexOf(event.target);
      const last = tokens.length - 1;
      const to = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1,
                   Home: 0, End: last }[event.key];
      if (to !== undefined) {
        const next = tokens[Math.max(0, Math.min(last, to))];
        tokens.forEach((token) => { token.tabIndex = token === next ? 0 : -1; });
        next.focus();
      } else if (event.key === "Enter" || event.key === " ") {
        choose(Number(event.target.dataset.token));
      } else {
        return;
      }
      event.preventDefault();
    };
    return line;
  }));
}

function mark(root, chosen) {
  for (const line of root.children) {
    line.querySelectorAll(".token").forEach((token, i) => {
      const here = Number(token.dataset.token) === chosen;
      token.setAttribute("aria-selected", String(here));
      token.tabIndex = here || (chosen === null && i === 0) ? 0 : -1;
    });
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".strip");
  const shown = JSON.stringify([data.pieces, data.rows]);
  if (root.shown !== shown) {  // a click alone must not draw everything anew, nor lose the focus
    root.shown = shown;
    draw(root, data, (i) => root.choose(i));
  }
  root.choose = (i) => { mark(root, i); setTriggerValue("picked", i); };
  mark(root, data.chosen);
}
