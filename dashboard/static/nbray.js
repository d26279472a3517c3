// A page of the dashboard: it shows what its socket tells, and says what it shows. All HTML comes
// from the dashboard, which has escaped every text of the cluster.
"use strict";
(() => {
  const facts = JSON.parse(document.body.dataset.facts);
  const main = document.getElementById("main");
  const trouble = document.getElementById("trouble");
  const plots = new Map();
  const again = { first: 500, most: 10000 };
  const patience = 20000;  // the dashboard says a word every few seconds, if it has no news
  let socket = null, number = 0, wait = again.first, heard = Date.now(), timer = null;
  let listening = performance.now();
  let here = { page: facts.page, query: queryOf(location.search) };
  const token = pageToken();
  // Where the address may not be changed (a sandbox), the place stands behind the #.
  if (location.hash.startsWith("#/")) here = placeOf(location.hash.slice(2));

  // The login says it behind the #. It is kept where only this origin's scripts read.
  function pageToken() {
    const said = location.hash.match(/^#token=(\w+)$/);
    let kept = said ? said[1] : "";
    try {
      if (said) localStorage.setItem("nbray-token", kept);
      else kept = localStorage.getItem("nbray-token") || "";
    } catch { /* it holds for this page */ }
    if (said) history.replaceState(null, "", location.pathname + location.search);
    return kept;
  }
  function queryOf(text) {
    const found = {};
    for (const [key, value] of new URLSearchParams(text)) if (value !== "") found[key] = value;
    return found;
  }
  function placeOf(href) {
    const [path, query] = href.replace(/^\.\//, "").split("?");
    return { page: path, query: queryOf(query || "") };
  }
  function addressOf(place) {
    const query = new URLSearchParams(place.query).toString();
    return (place.page || "./") + (query ? "?" + query : "");
  }

  // --- the socket

  function connect() {
    const url = new URL("ws", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = url.hash = "";
    listening = performance.now();
    socket = new WebSocket(url, ["nbray", facts.ticket]);
    socket.onopen = () => { wait = again.first; ask(true); };
    socket.onmessage = (event) => hear(JSON.parse(event.data));
    socket.onclose = lost;
  }
  function lost() {
    socket = null;
    const time = new Date(heard).toLocaleTimeString();
    complain(`The dashboard does not answer: what is shown is of ${time}. If its cluster was ` +
      "started anew, open it with a new link (nbray dashboard).");
    timer = setTimeout(connect, wait);
    wait = Math.min(again.most, 2 * wait);
  }
  // A process that stands still and a link that was cut close no socket.
  setInterval(() => {
    if (document.hidden || socket === null || performance.now() - listening < patience) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    lost();
  }, 1000);
  function send(message) {
    if (socket !== null && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }
  function ask(anew) {
    number += 1;
    send({ page: here.page, query: here.query, number, anew });
  }
  function complain(text) {
    trouble.textContent = text;
    trouble.hidden = text === "";
  }
  document.addEventListener("visibilitychange", () => {
    listening = performance.now();
    send({ paused: document.hidden });
  });

  // A link that is drawn anew between press and release gets no click: news wait for the release,
  // though not for a hand that rests, or drags what it has chosen.
  let pressed = false, release = null;
  const kept = [];
  function hear(message) {
    if (pressed) kept.push(message); else take(message);
  }
  function released() {
    pressed = false;
    clearTimeout(release);
    kept.splice(0).forEach(take);
  }
  document.addEventListener("pointerdown", () => {
    pressed = true;
    clearTimeout(release);
    release = setTimeout(released, 1000);
  });
  for (const over of ["pointerup", "pointercancel"]) {
    document.addEventListener(over, () => {
      clearTimeout(release);
      release = setTimeout(released, 0);  // the click comes first
    });
  }

  function take(message) {
    heard = Date.now();
    listening = performance.now();
    complain(message.error ? `The cluster does not answer: ${message.error}` : "");
    if (message.number !== undefined && message.number !== number) return;
    if (message.main !== undefined) showMain(message.main);
    for (const [name, html] of Object.entries(message.heads || {})) put(`h-${name}`, html);
    for (const [name, html] of Object.entries(message.bodies || {})) put(`b-${name}`, html);
    for (const [name, html] of Object.entries(message.fixed || {})) {
      const typed = document.activeElement?.closest("input, select, textarea") || null;
      if (typed === null || !document.getElementById(`f-${name}`)?.contains(typed)) put(`f-${name}`, html);
    }
    for (const data of message.data || []) plotted(data);
    document.body.dataset.live = String(number);
  }
  function put(id, html) {
    const place = document.getElementById(id);
    if (place === null || place.contains(asked)) return;
    const scrolled = [...place.querySelectorAll(".keep")].map((one) => [one.scrollTop, atEnd(one)]);
    const open = [...place.querySelectorAll("details")].map((one) => one.open);
    const zoomed = place.querySelector(".flame > .chosen");
    const sideways = [...place.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
    place.innerHTML = html;
    const same = zoomed && [...place.querySelectorAll(".flame > div")].find((one) =>
      one.textContent === zoomed.textContent && one.style.top === zoomed.style.top);
    if (same) zoom(same);
    place.querySelectorAll("details").forEach((one, i) => { if (open[i]) one.open = true; });
    place.querySelectorAll(".scroll").forEach((one, i) => { one.scrollLeft = sideways[i] || 0; });
    place.querySelectorAll(".keep").forEach((one, i) => {
      const [top, end] = scrolled[i] || [0, true];
      one.scrollTop = end ? one.scrollHeight : top;
    });
  }
  function atEnd(one) { return one.scrollTop + one.clientHeight >= one.scrollHeight - 8; }
  function showMain(html) {
    plots.clear();
    const typed = document.activeElement;
    const key = typed && typed.dataset ? typed.dataset.key : undefined;
    main.innerHTML = html;
    main.querySelectorAll(".keep").forEach((one) => { one.scrollTop = one.scrollHeight; });
    if (key !== undefined) {
      const field = main.querySelector(`[data-key="${CSS.escape(key)}"]`);
      if (field !== null) { field.focus(); field.setSelectionRange?.(-1, -1); }
    }
  }

  // --- going from page to page

  function go(place, replace) {
    const other = place.page !== here.page || place.query.id !== here.query.id;
    here = place;
    try {
      history[replace ? "replaceState" : "pushState"](null, "", addressOf(place));
    } catch {
      location.hash = "#/" + addressOf(place);
    }
    const [title, under] = facts.pages[place.page] || ["nbray", ""];
    document.title = `${title} - nbray`;
    for (const link of document.querySelectorAll("nav a")) {
      link.toggleAttribute("aria-current", link.dataset.page === (under || place.page));
      if (link.hasAttribute("aria-current")) link.setAttribute("aria-current", "page");
    }
    if (other) window.scrollTo(0, 0);
    ask(other);
  }
  window.addEventListener("popstate", () => {
    const parts = location.pathname.split("/");
    const place = location.hash.startsWith("#/") ? placeOf(location.hash.slice(2))
      : { page: parts[parts.length - 1], query: queryOf(location.search) };
    here = place;
    ask(true);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (link !== null && event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      const href = link.getAttribute("href");
      const place = placeOf(href);
      if (!link.hasAttribute("download") && !/^[a-z]+:|^\/|^#/.test(href) && place.page in facts.pages) {
        event.preventDefault();
        go(place, false);
      }
      return;
    }
    const frame = event.target.closest(".flame > div");
    if (frame !== null) return zoom(frame);
    const button = event.target.closest("button");
    if (button === null) return;
    if (button.id === "theme") return theme(true);
    if (button.classList.contains("act")) return confirmAct(button);
    if (button.classList.contains("follow")) return follow(button);
  });
  let typing = null;
  document.addEventListener("input", (event) => {
    const field = event.target.closest("[data-key]");
    if (field === null) return;
    clearTimeout(typing);
    typing = setTimeout(() => {
      const query = { ...here.query };
      const prefix = field.dataset.key.replace(/[a-z]+$/, "");
      delete query[prefix + "page"];
      const value = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
      if (value === "") delete query[field.dataset.key]; else query[field.dataset.key] = value;
      go({ page: here.page, query }, true);
    }, field.type === "search" ? 200 : 0);
  });

  // --- a flame graph: a frame that is clicked gets the whole width, and so do those that called it

  function zoom(chosen) {
    const all = [...chosen.parentElement.children];
    for (const one of all) {
      one.dataset.at ??= parseFloat(one.style.left);
      one.dataset.share ??= parseFloat(one.style.width);
    }
    const out = chosen.classList.contains("chosen") ? all[0] : chosen;
    const left = +out.dataset.at, share = +out.dataset.share, top = parseFloat(out.style.top);
    const slack = 1e-3;
    for (const one of all) {
      const at = +one.dataset.at, end = at + +one.dataset.share;
      const outer = parseFloat(one.style.top) < top && at <= left + slack && end >= left + share - slack;
      const inner = parseFloat(one.style.top) >= top && at >= left - slack && end <= left + share + slack;
      one.classList.toggle("away", !outer && !inner);
      one.classList.toggle("outer", outer);
      one.classList.toggle("chosen", one === out && out !== all[0]);
      one.style.left = `${outer ? 0 : 100 * (at - left) / share}%`;
      one.style.width = `${outer ? 100 : 100 * (end - at) / share}%`;
    }
  }

  // --- what changes something asks first

  let asked = null;
  function confirmAct(button) {
    asked?.remove();
    const box = asked = document.createElement("span");
    box.className = "ask";
    const text = document.createElement("span");
    text.textContent = button.dataset.ask;
    const yes = document.createElement("button");
    yes.textContent = button.textContent; yes.className = "bad";
    const no = document.createElement("button");
    no.textContent = "Cancel";
    box.append(text, yes, no);
    button.after(box);
    const done = (said) => { asked = null; text.textContent = said; yes.remove(); no.remove();
      setTimeout(() => box.remove(), 6000); };
    no.addEventListener("click", () => { asked = null; box.remove(); });
    yes.addEventListener("click", async () => {
      yes.disabled = true;
      const form = button.closest("form");
      const fields = form ? Object.fromEntries(new FormData(form)) : {};
      const chosen = form?.querySelector("input[type=file]");
      try {
        if (chosen?.files.length) {
          fields.runtime_env = { working_dir: await sent(chosen, text, no) };
        }
        no.disabled = true;
        const reply = await fetch(button.dataset.url || "act", {
          method: "POST", credentials: "same-origin",
          headers: { "Content-Type": "application/json", "Nbray-Page": token },
          body: JSON.stringify(button.dataset.url ? fields : { ...fields, ...button.dataset }),
        });
        const body = await reply.text();
        let said = { said: body };
        try { said = JSON.parse(body); } catch { /* the REST API says errors in words */ }
        done(said.said || said.error || (reply.ok ? "Done." : `The dashboard answers ${reply.status}.`));
        if (said.go) go(placeOf(said.go), false);
        else if (said.submission_id) go({ page: "job", query: { id: said.submission_id } }, false);
      } catch (error) {
        done(`It was not done: ${error.message}`);
      }
    });
  }
  document.addEventListener("submit", (event) => event.preventDefault());

  // An archive goes to the cluster as it is read from the disk; its address there. Who goes away gives it up.
  function sent(field, text, cancel) {
    const [file] = field.files;
    const ending = JSON.parse(field.dataset.endings).find((one) => file.name.toLowerCase().endsWith(one));
    if (!ending) throw new Error(`${file.name} is no archive: ${JSON.parse(field.dataset.endings).join(", ")}.`);
    const most = +field.dataset.most, mega = (bytes) => (bytes / 2 ** 20).toFixed(1);
    if (file.size > most) throw new Error(`${file.name} has ${mega(file.size)} MiB; ${mega(most)} may be.`);
    const random = crypto.getRandomValues(new Uint8Array(12));
    const name = `page-${[...random].map((one) => one.toString(16).padStart(2, "0")).join("")}${ending}`;
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const fail = (why) => reject(new Error(why));
      request.open("PUT", `api/packages/gcs/${name}`);
      request.setRequestHeader("Nbray-Page", token);
      request.upload.onprogress = (event) => {
        if (!text.isConnected) request.abort();
        text.textContent = `${mega(event.loaded)} of ${mega(file.size)} MiB are sent; stay on this page.`;
      };
      request.onload = () => request.status === 200 ? resolve(`gcs://${name}`)
        : fail(request.responseText || `the dashboard answers ${request.status}`);
      request.onerror = () => fail("the connection ended, or the file changed while it was sent");
      request.onabort = () => fail("the files were not sent to the end");
      cancel.addEventListener("click", () => request.abort());
      request.send(file);
    });
  }

  // --- light and dark

  function theme(change) {
    let known = null;
    try { known = localStorage.getItem("nbray-theme"); } catch { /* a sandbox has no storage */ }
    let now = document.documentElement.dataset.theme || known || "";
    if (change) {
      const dark = now ? now === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      now = dark ? "light" : "dark";
      try { localStorage.setItem("nbray-theme", now); } catch { /* it holds for this page */ }
    }
    if (now) document.documentElement.dataset.theme = now;
  }
  theme(false);

  // --- plots

  let bokeh = null;
  function loadBokeh() {
    bokeh = bokeh || new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `static/js/bokeh.min.js?${facts.version}`;
      script.onload = resolve; script.onerror = reject;
      document.head.append(script);
    });
    return bokeh;
  }
  const shift = -new Date().getTimezoneOffset() * 60000;  // Bokeh shows times as of Greenwich
  const times = new Set(["time", "left", "right"]);
  function local(columns) {
    const found = {};
    for (const [name, values] of Object.entries(columns)) {
      found[name] = values.map((one) =>
        one === null ? NaN : times.has(name) ? one + shift : one);
    }
    return found;
  }
  async function plotted(data) {
    const key = `${data.plot} ${data.query}`;
    const place = [...main.querySelectorAll(".plot")].find((one) =>
      one.dataset.plot === data.plot && one.dataset.query === data.query);
    if (place === undefined) return;
    if (data.figure) {
      place.replaceChildren();
      plots.set(key, (async () => {
        await loadBokeh();
        const item = JSON.parse(data.figure);
        const target = document.createElement("div");
        const note = document.createElement("p");
        note.className = "note"; note.hidden = true;
        place.append(target, note);
        const views = await Bokeh.embed.embed_item({ ...item, target_id: null }, target);
        const view = [...(views.roots || views)][0];
        const doc = view.model.document;
        const found = { plot: view.model, source: doc.get_model_by_name("data"), note,
          following: true, place, mine: false };
        if (data.lanes) followable(found);
        return found;
      })());
    }
    const shown = await plots.get(key);
    if (shown === undefined) return;
    const columns = local(data.columns);
    if (data.lanes) {
      if (!shown.following) return;
      shown.plot.y_range.factors = [...data.lanes].reverse();
      shown.plot.height = Math.max(140, 70 + 16 * data.lanes.length);
      shown.mine = true;
      const reach = { "5m": 300, "15m": 900, "1h": 3600 }[JSON.parse(data.query).span] || 60;
      const end = Date.now() + shift;
      shown.plot.x_range.setv({ start: end - reach * 1000, end });
      shown.mine = false;
    }
    if (data.more) shown.source.stream(columns, 1500); else shown.source.data = columns;
    shown.note.textContent = data.note; shown.note.hidden = !data.note;
    shown.place.dataset.drawn = String(columns[Object.keys(columns)[0]].length);
  }
  function followable(shown) {
    const button = document.createElement("button");
    button.textContent = "Follow"; button.className = "follow"; button.hidden = true;
    button.shown = shown;
    shown.place.prepend(button);
    const moved = () => {
      if (shown.mine) return;
      shown.following = false;
      button.hidden = false;
    };
    shown.plot.x_range.properties.start.change.connect(moved);
    shown.source.selected.properties.indices.change.connect(() => {
      const [chosen] = shown.source.selected.indices;
      if (chosen !== undefined) go({ page: "task", query: { id: shown.source.data.id[chosen] } }, false);
    });
  }
  function follow(button) {
    button.shown.following = true;
    button.hidden = true;
  }

  main.querySelectorAll(".keep").forEach((one) => { one.scrollTop = one.scrollHeight; });
  connect();
})();
