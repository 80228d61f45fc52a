//! `info URI`: what an NBD server offers, or what a file or block device is.

mod device;
mod map;
mod server;

use std::time::Duration;

use engine::Endpoint;

use crate::cli::InfoArgs;
use crate::endpoint::{ConnectOptions, endpoint};
use crate::exit::Failure;
use crate::uri::Uri;

/// Runs the verb.
pub(crate) fn run(args: &InfoArgs) -> Result<(), Failure> {
    let given = args.uri.to_string_lossy();
    let uri = Uri::from_os(&args.uri).map_err(|error| error.into_failure(&given))?;
    let options = ConnectOptions {
        tls_dir: args.tls_dir.clone(),
        suite: None,
        connect_timeout: Duration::from_secs(args.connect_timeout),
    };
    match endpoint(&uri, &options)? {
        Endpoint::Nbd(nbd) if args.list => server::list(&nbd, args.output),
        Endpoint::Nbd(nbd) => server::show(&nbd, args.map, args.output),
        _ if args.list => Err(Failure::usage(
            "only a server has a list of exports",
            uri.to_string(),
            "leave --list out",
        )),
        Endpoint::Path(path) => device::show(&path, args.map, args.output),
        Endpoint::Null { .. } => Err(Failure::usage(
            "there is nothing to say about a null device",
            uri.to_string(),
            "give a path or the uri of a server",
        )),
    }
}
