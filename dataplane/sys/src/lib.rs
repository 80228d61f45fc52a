//! The kernel: rings, leases, devices. The only crate with unsafe code.
