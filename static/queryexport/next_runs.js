/* Shows the next runs of the schedule that is in the form, before it is saved. */
"use strict";

(() => {
  const FIELDS = [
    "scheduling_mode", "days_of_week", "hour", "minute", "cron_expression", "timezone", "end_date",
  ];
  const PAUSE_MS = 300;
  const NO_ANSWER = "The next runs could not be computed: the server did not answer as expected. " +
    "Reload the page; you may have to log in again.";

  const shown = document.getElementById("next-runs");
  const form = shown && shown.closest("form");
  if (!form) {
    return;
  }

  const schedule = () => {
    const values = [...new FormData(form)].filter(([name]) => FIELDS.includes(name));
    return new URLSearchParams(values).toString();
  };

  const show = (runs, error) => {
    const lines = runs.map((run) => {
      const line = document.createElement("div");
      line.textContent = run;
      return line;
    });
    if (error) {
      const line = document.createElement("div");
      line.className = "next-runs-error";
      line.textContent = error;
      lines.push(line);
    }
    shown.replaceChildren(...lines);
  };

  let asked = schedule();
  let timer;
  let question = new AbortController();

  const ask = async () => {
    const { signal } = question;
    try {
      const answer = await fetch(`${shown.dataset.url}?${asked}`, {
        credentials: "same-origin",
        headers: { Accept: "application/json" },
        signal,
      });
      const { runs, error } = await answer.json();
      if (!signal.aborted) {
        show(runs, error);
      }
    } catch {
      if (!signal.aborted) {
        show([], NO_ANSWER);
      }
    }
  };

  const changed = () => {
    const now = schedule();
    if (now === asked) {
      return;
    }
    asked = now;
    clearTimeout(timer);
    question.abort(); // An answer that comes late says nothing any more.
    question = new AbortController();
    timer = setTimeout(ask, PAUSE_MS);
  };

  // The calendar beside a date fills the field in without an event, and then gives it the focus.
  for (const event of ["input", "change", "focusin"]) {
    form.addEventListener(event, changed);
  }
})();
