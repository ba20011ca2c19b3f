"""One sink: rows as Kafka messages, counted by what the brokers acknowledged."""
