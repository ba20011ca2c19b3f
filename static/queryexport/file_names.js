/* Shows what the file and the mail would be called, while somebody types and before it is saved. */
"use strict";

(() => {
  const ITEM = [
    "name", "query", "connection", "scheduling_mode", "days_of_week", "hour", "minute",
    "cron_expression", "timezone", "end_date",
  ];
  const OUTPUT = [
    "sharing_mode", "output_format", "output_filename_template", "output_date_format",
    "output_offset_days", "output_compress_gz", "output_dir", "output_on_existing",
    "email_subject", "email_body",
  ];
  const PAUSE_MS = 300;
  const LONGEST_BODY = 500; // The question is an address, which may not be long.
  const NO_ANSWER = "The example could not be computed: the server did not answer as expected. " +
    "Reload the page; you may have to log in again.";

  const form = document.getElementById("schedulingitem_form");
  if (!form) {
    return;
  }

  const field = (name) => form.elements.namedItem(name);

  /* Without password and options: neither is for an address that servers write down. */
  const store = (url) => {
    const [, scheme, login, rest] = /^(.*?:\/\/)(?:(.*)@)?([^?#]*)/.exec(url) || [];
    if (!scheme) {
      return "";
    }
    return scheme + (login ? `${login.split(":")[0]}:\${PASSWORD}@` : "") + rest;
  };

  const hasPassword = (prefix) => {
    const typed = field(`${prefix}output_zip_password`);
    const clear = field(`${prefix}output_zip_password-clear`);
    return Boolean((typed && typed.value) || (clear && !clear.checked));
  };

  /* The prefix of a further destination, or nothing for the item's own. */
  const prefixOf = (shown) => {
    const entry = shown.closest(".inline-related");
    return entry ? `${entry.id}-` : "";
  };

  const question = (prefix) => {
    const all = new FormData(form);
    const asked = new URLSearchParams();
    for (const name of ITEM) {
      all.getAll(name).forEach((value) => asked.append(name, value));
    }
    for (const name of OUTPUT) {
      const value = all.get(prefix + name);
      if (value !== null) {
        asked.append(name, name === "email_body" ? value.slice(0, LONGEST_BODY) : value);
      }
    }
    asked.append("output_url", store(all.get(`${prefix}output_url`) || ""));
    if (hasPassword(prefix)) {
      asked.append("zipped", "on");
    }
    const saved = /\/(\d+)\/change\/$/.exec(window.location.pathname);
    if (saved) {
      asked.append("item", saved[1]);
    }
    if (prefix) {
      asked.append("destination", all.get(`${prefix}id`) || "-1"); // One that is not saved.
    }
    return asked.toString();
  };

  const show = (shown, { lines, errors, warnings }) => {
    const made = (kind) => (text) => {
      const line = document.createElement("div");
      line.className = `example-${kind}`;
      line.textContent = text;
      return line;
    };
    shown.replaceChildren(
      ...lines.map(made("line")), ...errors.map(made("error")), ...warnings.map(made("warning")),
    );
  };

  const places = () => {
    const found = new Map();
    for (const shown of form.querySelectorAll(".name-example")) {
      if (!shown.closest(".empty-form")) {
        const prefix = prefixOf(shown);
        found.set(prefix, [...(found.get(prefix) || []), shown]);
      }
    }
    return found;
  };

  const ask = async (shown, asked, signal) => {
    try {
      const answer = await fetch(`${shown[0].dataset.url}?${asked}`, {
        credentials: "same-origin",
        headers: { Accept: "application/json" },
        signal,
      });
      const found = await answer.json();
      if (!signal.aborted) {
        shown.forEach((place) => show(place, found[place.dataset.part]));
      }
    } catch {
      if (!signal.aborted) {
        shown.forEach((place) => show(place, { lines: [], errors: [NO_ANSWER], warnings: [] }));
      }
    }
  };

  const state = new Map(); // What was asked last for each prefix, and how to give it up.
  for (const prefix of places().keys()) {
    state.set(prefix, { asked: question(prefix), question: new AbortController() });
  }

  const changed = () => {
    for (const [prefix, shown] of places()) {
      const now = question(prefix);
      const before = state.get(prefix);
      if (before && before.asked === now) {
        continue;
      }
      if (before) {
        clearTimeout(before.timer);
        before.question.abort(); // An answer that comes late says nothing any more.
      }
      const next = { asked: now, question: new AbortController() };
      next.timer = setTimeout(() => ask(shown, now, next.question.signal), PAUSE_MS);
      state.set(prefix, next);
    }
  };

  // The calendar, and the search for a query, fill fields in without an event of their own.
  for (const event of ["input", "change", "focusin", "formset:added"]) {
    form.addEventListener(event, changed);
  }
  if (window.django && window.django.jQuery) {
    window.django.jQuery(form).on("change", changed);
  }
})();
