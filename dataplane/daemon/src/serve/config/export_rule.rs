//! An export of the command line or the configuration file.

use std::path::PathBuf;

use control::{ClientRule, ExportMode, check_export_name};

use crate::exit::Failure;
use crate::size::parse_size;

/// What stands behind an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) enum StoreRule {
    /// A file or a block device.
    Path(PathBuf),
    /// Nothing: writes are discarded, reads are zeroes.
    Null {
        /// Its size.
        size_bytes: u64,
    },
}

/// One export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) struct ExportRule {
    /// Its name on the wire.
    pub(in crate::serve) name: String,
    /// What stands behind it.
    pub(in crate::serve) store: StoreRule,
    /// What clients may do.
    pub(in crate::serve) mode: ExportMode,
    /// Its content is worth nothing.
    pub(in crate::serve) scratch: bool,
    /// Who may open it over TLS.
    pub(in crate::serve) clients: ClientRule,
}

impl ExportRule {
    /// `NAME=PATH`, `NAME=ro:PATH`, `NAME=scratch:PATH`, `NAME=null:SIZE`. The first `=` ends the name.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong =
            |what: &str, remedy: &str| Failure::usage(what, format!("--export {text}"), remedy);
        let (name, store) = text.split_once('=').ok_or_else(|| {
            wrong(
                "an export needs a name and a path",
                "write --export NAME=PATH",
            )
        })?;
        check_name(name)?;
        let (kind, rest) = match store.split_once(':') {
            Some((kind @ ("ro" | "scratch" | "null"), rest)) => (kind, rest),
            _ => ("", store),
        };
        if rest.is_empty() {
            return Err(wrong("the export has no path", "write --export NAME=PATH"));
        }
        let store = match kind {
            "null" => StoreRule::Null {
                size_bytes: parse_size(rest).map_err(|error| {
                    wrong(
                        "the null export has no usable size",
                        "write it as NAME=null:10G",
                    )
                    .caused_by(&error)
                })?,
            },
            _ => StoreRule::Path(PathBuf::from(rest)),
        };
        let rule = Self {
            name: name.to_owned(),
            store,
            mode: if kind == "ro" {
                ExportMode::Ro
            } else {
                ExportMode::Rw
            },
            scratch: kind == "scratch",
            clients: ClientRule::Any,
        };
        rule.check()
    }

    /// What no single key can tell.
    pub(super) fn check(self) -> Result<Self, Failure> {
        check_name(&self.name)?;
        if let StoreRule::Null { size_bytes } = self.store
            && (size_bytes == 0 || size_bytes > wire::limits::EXPORT_BYTES_MAX)
        {
            return Err(Failure::usage(
                "the null export has an impossible size",
                format!("export {}, {size_bytes} bytes", self.name),
                format!("1 to {} bytes are possible", wire::limits::EXPORT_BYTES_MAX),
            ));
        }
        Ok(self)
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    check_export_name(name).map_err(|error| {
        Failure::usage(
            error.to_string(),
            format!("export {name:?}"),
            "choose another name",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> ExportRule {
        ExportRule::parse(text).unwrap()
    }

    #[test]
    fn the_forms_of_an_export() {
        let plain = rule("disk=/dev/vdb");
        assert_eq!(plain.name, "disk");
        assert_eq!(plain.store, StoreRule::Path("/dev/vdb".into()));
        assert_eq!((plain.mode, plain.scratch), (ExportMode::Rw, false));
        assert_eq!(rule("d=ro:/x").mode, ExportMode::Ro);
        assert!(rule("d=scratch:/x").scratch);
        assert_eq!(
            rule("d=null:1G").store,
            StoreRule::Null {
                size_bytes: 1 << 30
            }
        );
    }

    #[test]
    fn only_the_first_equals_sign_and_known_words_have_a_meaning() {
        assert_eq!(rule("d=/a=b").store, StoreRule::Path("/a=b".into()));
        assert_eq!(rule("d=/ro:x").store, StoreRule::Path("/ro:x".into()));
        assert_eq!(rule("d=./ro:x").store, StoreRule::Path("./ro:x".into()));
        assert_eq!(rule("d=rw:x").store, StoreRule::Path("rw:x".into()));
    }

    #[test]
    fn what_is_incomplete_is_refused() {
        for bad in [
            "",
            "disk",
            "=/dev/vdb",
            "d=",
            "d=ro:",
            "d=null:",
            "d=null:x",
            "d=null:0",
            "a/b=/x",
        ] {
            assert_eq!(
                ExportRule::parse(bad).unwrap_err().exit().code(),
                2,
                "{bad}"
            );
        }
    }
}
