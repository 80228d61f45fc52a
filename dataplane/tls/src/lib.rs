//! TLS 1.3: the handshake and the record layer.
#![forbid(unsafe_code)]
