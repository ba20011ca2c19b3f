"""Commands of the Kafka sink."""
