"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  const viewer = one("#viewer");

  // --- comparisons: any image of the left choice over any of the right one

  const split = (box, percent) => {
    const place = Math.min(100, Math.max(0, percent));
    box.style.setProperty("--split", `${place}%`);
    const handle = one(".handle", box);
    handle.setAttribute("aria-valuenow", String(Math.round(place)));
    const [left, right] = [one(".tag.l", box).textContent, one(".tag.r", box).textContent];
    handle.setAttribute("aria-valuetext", `${Math.round(place)} % ${left}, ${100 - Math.round(place)} % ${right}`);
  };
  const placeOf = (box) => parseFloat(box.style.getPropertyValue("--split")) || Number(one(".handle", box).getAttribute("aria-valuenow"));

  const choose = (box, left, right) => {
    const images = all("img", box);
    const named = (label) => images.find((image) => image.dataset.label === label);
    const second = named(right) || images[images.length - 1];
    const first = named(left) && named(left) !== second ? named(left) : images.find((image) => image !== second);
    images.forEach((image) => { image.className = image === first ? "left" : image === second ? "right" : "off"; });
    one(".tag.l", box).textContent = first.dataset.label;
    one(".tag.r", box).textContent = second.dataset.label;
    split(box, placeOf(box));
  };

  document.addEventListener("pointerdown", (event) => {
    const box = event.target.closest(".cmp:not(.single)");
    if (!box || event.button !== 0) return;
    const move = (moved) => {
      const place = box.getBoundingClientRect();
      split(box, ((moved.clientX - place.left) / place.width) * 100);
    };
    const stop = () => {
      box.removeEventListener("pointermove", move);
      box.removeEventListener("pointerup", stop);
      box.removeEventListener("pointercancel", stop);
      if (viewer.contains(box)) viewer.focus({ preventScroll: true }); // arrow keys go on turning pages there
    };
    box.setPointerCapture(event.pointerId);
    box.addEventListener("pointermove", move);
    box.addEventListener("pointerup", stop);
    box.addEventListener("pointercancel", stop);
    if (event.pointerType === "mouse") event.preventDefault();
    if (!viewer.contains(box)) one(".handle", box).focus({ preventScroll: true });
    move(event);
  });

  document.addEventListener("keydown", (event) => {
    if (!event.target.matches || !event.target.matches(".handle")) return;
    const box = event.target.closest(".cmp");
    const now = placeOf(box);
    const step = event.shiftKey ? 10 : 2;
    const to = {
      ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step,
      PageDown: now - 20, PageUp: now + 20, Home: 0, End: 100,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    split(box, to);
  });

  const pressed = (side) => {
    const button = one(`.group[data-side=${side}] button[aria-pressed=true]`);
    return button && button.textContent;
  };
  all(".group[data-side] button").forEach((button) => button.addEventListener("click", () => {
    all("button", button.parentElement).forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    all(".card .cmp:not(.single)").forEach((box) => choose(box, pressed("left"), pressed("right")));
  }));

  // --- order and search, the same for cards and rows

  const table = one("#rows");
  const rows = table ? all("tbody tr", table) : [];
  const heads = table ? all("thead th", table) : [];
  const cards = all(".card");
  const thumbs = all(".thumb");
  const rowOf = new Map([...cards, ...thumbs].map((item) => [item, document.getElementById(item.dataset.row)]));
  const order = one("#order");
  const turn = one("#turn");

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    if (!heads[column].classList.contains("num")) return cell.textContent.trim() || null;
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const sort = (column, descending) => {
    const sign = descending ? -1 : 1;
    const compare = (one_, two) => {
      const [a, b] = [keyOf(one_, column), keyOf(two, column)];
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    };
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    rows.sort(compare);
    one("tbody", table).append(...rows);
    const rank = new Map(rows.map((row, at) => [row, at]));
    [[cards, ".cards"], [thumbs, ".thumbs"]].forEach(([items, selector]) => {
      items.sort((a, b) => rank.get(rowOf.get(a)) - rank.get(rowOf.get(b)));
      if (items.length) one(selector).append(...items);
    });
    if (order) {
      order.value = String(column);
      turn.textContent = descending ? "high to low" : "low to high";
    }
  };
  heads.forEach((head, column) => {
    const button = one("button", head);
    if (!button) return;
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now ? now === "ascending" : head.dataset.worst === "high");
    });
  });
  if (order) {
    order.addEventListener("change", () => sort(Number(order.value), heads[order.value].dataset.worst === "high"));
    turn.addEventListener("click", () => {
      const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
      if (column >= 0) sort(column, heads[column].getAttribute("aria-sort") === "ascending");
    });
  }

  const search = one("#search");
  if (search) {
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    search.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      rows.forEach((row) => { row.hidden = !texts.get(row).includes(wanted); });
      rowOf.forEach((row, item) => { item.hidden = row.hidden; });
      one("#shown").textContent = wanted ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
    });
  }

  // --- thumbnails, put in when they come into view

  const fill = (thumb) => {
    if (thumb.dataset.image === undefined) return;
    const image = new Image();
    image.alt = "";
    image.draggable = false;
    image.src = thumb.dataset.image;
    delete thumb.dataset.image;
    one(".image", thumb).append(image);
  };
  const watch = new IntersectionObserver((seen) => seen.forEach((entry) => {
    if (!entry.isIntersecting) return;
    fill(entry.target);
    watch.unobserve(entry.target);
  }), { rootMargin: "300px" });
  thumbs.forEach((thumb) => watch.observe(thumb));
  window.addEventListener("beforeprint", () => thumbs.forEach(fill));

  // --- whole images, read from their files when asked for

  const stage = one(".stage", viewer);
  const sizeButton = one("#viewer-size");
  let whole = null;
  const shows = (row) => !row.hidden && one("a[data-show]", row) !== null;

  const fit = () => {
    if (!whole) return;
    const room = [window.innerWidth * 0.96 - 32, window.innerHeight * 0.96 - 110];
    const full = sizeButton.getAttribute("aria-pressed") === "true";
    const factor = full ? 1 : Math.min(1, room[0] / whole.size[0], room[1] / whole.size[1]);
    whole.box.style.width = `${Math.round(whole.size[0] * factor)}px`;
    whole.box.style.height = `${Math.round(whole.size[1] * factor)}px`;
  };
  const open = (row) => {
    const links = all("a[data-label]", row).filter((link) => link.dataset.show !== undefined);
    const box = document.createElement("div");
    box.className = links.length > 1 ? "cmp" : "cmp single";
    one("#viewer-name").textContent = one("th", row).textContent;
    one("#viewer-note").textContent = "The files themselves; a smaller one is enlarged by the browser.";
    let largest = null;
    links.forEach((link) => {
      const image = new Image();
      image.dataset.label = link.dataset.label;
      image.alt = `${one("th", row).textContent}, ${link.dataset.label}`;
      image.className = "right";
      image.addEventListener("error", () => {
        one("#viewer-note").textContent = `${link.dataset.label}: this browser cannot show the file, or it is no longer at its place.`;
      });
      image.addEventListener("load", () => {
        if (largest === null || image.naturalWidth > largest) {
          largest = image.naturalWidth;
          whole.size = [image.naturalWidth, image.naturalHeight];
          fit();
        }
      });
      image.src = link.getAttribute("href");
      box.append(image);
    });
    if (links.length > 1) {
      const handle = document.createElement("div");
      handle.className = "handle";
      handle.tabIndex = 0;
      const name = { role: "slider", "aria-label": "Comparison", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "50" };
      Object.entries(name).forEach(([key, value]) => handle.setAttribute(key, value));
      const tag = (side) => Object.assign(document.createElement("span"), { className: `tag ${side}` });
      box.append(handle, tag("l"), tag("r"));
    }
    stage.replaceChildren(box);
    const given = (row.dataset.size || "640x480").split("x").map(Number);
    whole = { box, size: given, row };
    if (links.length > 1) {
      choose(box, pressed("left") || links[0].dataset.label, pressed("right") || links[links.length - 1].dataset.label);
    }
    fit();
    one("#viewer-previous").disabled = !beside(-1);
    one("#viewer-next").disabled = !beside(1);
    if (!viewer.open) viewer.showModal();
  };
  // The row before or after in the present order, of those found and shown by browsers.
  const beside = (step) => {
    let at = rows.indexOf(whole.row) + step;
    while (rows[at] && !shows(rows[at])) at += step;
    return rows[at];
  };
  const turnTo = (step) => { if (whole && beside(step)) open(beside(step)); };
  one("#viewer-previous").addEventListener("click", () => turnTo(-1));
  one("#viewer-next").addEventListener("click", () => turnTo(1));
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined || !viewer.open || event.target.matches(".handle")) return;
    event.preventDefault();
    turnTo(step);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.whole");
    if (button) open(document.getElementById(button.dataset.row));
  });
  sizeButton.addEventListener("click", () => {
    sizeButton.setAttribute("aria-pressed", String(sizeButton.getAttribute("aria-pressed") !== "true"));
    fit();
  });
  one("#viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => { stage.replaceChildren(); whole = null; });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  window.addEventListener("resize", fit);
})();
