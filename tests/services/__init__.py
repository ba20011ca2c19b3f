"""The real services that the tests run against: how to start, reach and stop each of them."""
