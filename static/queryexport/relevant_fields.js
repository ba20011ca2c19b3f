/* Hides what does not matter for the chosen mode and format. Without this script all is shown. */
"use strict";

(() => {
  const form = document.getElementById("schedulingitem_form");
  if (!form) {
    return;
  }

  const FILES = ["filesystem", "email"];
  const is = (name, ...values) => (value) => values.includes(value(name));
  const both = (one, other) => (value) => one(value) && other(value);
  const file = is("sharing_mode", ...FILES);
  const folder = (value) =>
    value("sharing_mode") === "filesystem" ||
    (value("sharing_mode") === "email" && value("email_too_large") === "link");
  const inFiles = is("sharing_mode", "filesystem");

  const RULES = {
    days_of_week: is("scheduling_mode", "classic"),
    hour: is("scheduling_mode", "classic"),
    minute: is("scheduling_mode", "classic"),
    cron_expression: is("scheduling_mode", "cron"),
    workbook_template: both(file, is("output_format", "template")),
    csv_delimiter: both(file, is("output_format", "csv")),
    csv_encoding: both(file, is("output_format", "csv")),
    csv_decimal_comma: both(file, is("output_format", "csv")),
    csv_formula_safe: both(file, is("output_format", "csv")),
    json_decimals_as_numbers: both(file, is("output_format", "jsonl")),
    output_url: inFiles,
    output_on_existing: folder,
    output_keep_versions: both(folder, is("output_on_existing", "keep")),
    output_dir: (value) => folder(value) && !(inFiles(value) && value("output_url")),
    retention_days: folder,
    retention_files: folder,
  };
  const rule = (name) => {
    if (name in RULES) {
      return RULES[name];
    }
    if (name.startsWith("output_") || name === "file_example") {
      return file;
    }
    if (name.startsWith("email_") || name === "mail_example") {
      return is("sharing_mode", "email");
    }
    return name.startsWith("kafka_") ? is("sharing_mode", "kafka") : null;
  };

  /* Django marks each field's row, or its box in a row of several, with the class field-NAME. */
  const nameOf = (element) => {
    const found = [...element.classList].find((name) => name.startsWith("field-"));
    return found && found.slice("field-".length);
  };

  const relevant = (name, part, value) => {
    const found = rule(name || "");
    // What is wrong is never hidden.
    return !found || found(value) || part.querySelector(".errorlist") !== null;
  };

  const showRow = (row, value) => {
    const boxes = [...row.querySelectorAll(".fieldBox")];
    for (const box of boxes) {
      const part = box.parentElement; // With its help and its errors.
      part.hidden = !relevant(nameOf(box), part, value);
    }
    row.hidden = boxes.length
      ? boxes.every((box) => box.parentElement.hidden)
      : !relevant(nameOf(row), row, value);
    return !row.hidden;
  };

  const showFieldset = (fieldset, prefix) => {
    if (!form.elements.namedItem(`${prefix}sharing_mode`)) {
      return; // Shown to somebody who may only look.
    }
    const value = (name) => {
      const field = form.elements.namedItem(prefix + name);
      return field ? field.value : "";
    };
    const rows = [...fieldset.querySelectorAll(".form-row")];
    const shown = rows.filter((row) => showRow(row, value)).length;
    fieldset.hidden = rows.length > 0 && shown === 0;
  };

  const show = () => {
    for (const fieldset of form.querySelectorAll("fieldset.module")) {
      const entry = fieldset.closest(".inline-related");
      const group = fieldset.querySelector(".inline-related");
      if (!group) {
        showFieldset(fieldset, entry ? `${entry.id}-` : "");
      }
    }
  };

  show();
  for (const event of ["input", "change", "formset:added"]) {
    form.addEventListener(event, show);
  }
})();
