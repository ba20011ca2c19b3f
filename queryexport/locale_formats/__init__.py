"""How pages show dates and times: ISO 8601 order, with seconds."""
