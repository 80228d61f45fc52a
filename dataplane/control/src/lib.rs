//! The types of the control sockets, shared by the data plane, the control plane and the tools.
#![forbid(unsafe_code)]
