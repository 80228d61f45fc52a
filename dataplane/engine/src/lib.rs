//! Shards, lanes and transfers: the data plane without its front door.
#![forbid(unsafe_code)]
