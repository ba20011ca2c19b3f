"""The demo: a made-up parcel carrier, three exports over its database, and everything running."""
