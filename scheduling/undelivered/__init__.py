"""Rows that Kafka did not take: how they are kept, sent again, and copied as dead letters."""
