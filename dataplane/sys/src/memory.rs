//! Mappings, and the mirrored ring whose wrap is contiguous.

mod mapping;
mod mirror;

pub(crate) use mapping::{Mapping, PAGE_BYTES};
pub use mirror::{Cursor, MirroredRing};
