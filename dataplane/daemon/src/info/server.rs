//! What an NBD server offers.

use std::fmt::Write as _;

use control::{Answer, DeviceFacts, ExportFacts, StoreKind};
use engine::{ErrorKind, NbdClient, NbdEndpoint, TlsMode};
use serde::Serialize;
use wire::{ClientParams, Mode, TransmissionFlags};

use super::map::{self, MapBuilder, MapEntry};
use crate::cli::OutputFormat;
use crate::exit::{Failure, Side};
use crate::mkdata::DataService;
use crate::report::{self, SCHEMA};
use crate::size::format_size;

/// Asked about at a time; servers without extended headers cannot answer for more than 4 GiB.
const STATUS_BYTES_MAX: u64 = 1 << 30;

/// The object of `info --output json` for a server.
#[derive(Debug, Serialize)]
struct ServerResult<'a> {
    schema: u32,
    command: &'static str,
    uri: &'a str,
    kind: &'static str,
    export: &'a str,
    description: &'a str,
    size_bytes: u64,
    read_only: bool,
    flags: Vec<&'static str>,
    mode: &'static str,
    block: BlockResult,
    contexts: Vec<&'a str>,
    tls: Option<&'a str>,
    suite: Option<&'static str>,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Answer<ExportFacts>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<Vec<MapEntry>>,
}

#[derive(Debug, Serialize)]
struct BlockResult {
    /// False: the server said nothing and these are the defaults of the protocol.
    stated: bool,
    min_bytes: u32,
    preferred_bytes: u32,
    payload_max_bytes: u32,
}

#[derive(Debug, Serialize)]
struct ListResult<'a> {
    schema: u32,
    command: &'static str,
    uri: &'a str,
    exports: Vec<ExportResult>,
}

#[derive(Debug, Serialize)]
struct ExportResult {
    name: String,
    description: String,
}

/// Every flag that says something, by the protocol's name.
const FLAGS: [(TransmissionFlags, &str); 10] = [
    (TransmissionFlags::READ_ONLY, "read_only"),
    (TransmissionFlags::SEND_FLUSH, "flush"),
    (TransmissionFlags::SEND_FUA, "fua"),
    (TransmissionFlags::ROTATIONAL, "rotational"),
    (TransmissionFlags::SEND_TRIM, "trim"),
    (TransmissionFlags::SEND_WRITE_ZEROES, "write_zeroes"),
    (TransmissionFlags::SEND_FAST_ZERO, "fast_zero"),
    (TransmissionFlags::SEND_DF, "df"),
    (TransmissionFlags::CAN_MULTI_CONN, "multi_conn"),
    (TransmissionFlags::SEND_CACHE, "cache"),
];

/// Shows one export.
pub(super) fn show(nbd: &NbdEndpoint, map: bool, output: OutputFormat) -> Result<(), Failure> {
    let failed = |error| Failure::engine(Side::Source, &error);
    let mut client = NbdClient::connect(nbd).map_err(failed)?;
    let map = if map {
        Some(read_map(&mut client).map_err(failed)?)
    } else {
        None
    };
    let params = client.params().clone();
    let suite = client.suite_name();
    // Behind a tunnel there is nobody who could tell, only somebody to disturb.
    let may_tell = client.chose_protocol();
    client.disconnect();
    let mut result = result_of(nbd, &params, suite, map);
    if may_tell {
        result.device = device_facts(nbd);
    }
    match output {
        OutputFormat::Json => report::object(&result),
        OutputFormat::Text => report::text(&to_text(&result)),
    }
}

fn result_of<'a>(
    nbd: &'a NbdEndpoint,
    params: &'a ClientParams,
    suite: Option<&'static str>,
    map: Option<Vec<MapEntry>>,
) -> ServerResult<'a> {
    let info = &params.info;
    let known = FLAGS.iter().filter(|(flag, _)| info.flags.contains(*flag));
    ServerResult {
        schema: SCHEMA,
        command: "info",
        uri: &nbd.uri,
        kind: "export",
        export: &nbd.export,
        description: &info.description,
        size_bytes: info.size_bytes,
        read_only: info.flags.contains(TransmissionFlags::READ_ONLY),
        flags: known.map(|(_, name)| *name).collect(),
        mode: match params.mode {
            Mode::Simple => "simple",
            Mode::Structured => "structured",
            Mode::Extended => "extended",
        },
        block: BlockResult {
            stated: params.block_sizes_stated,
            min_bytes: info.block.min,
            preferred_bytes: info.block.preferred,
            payload_max_bytes: info.block.payload_max,
        },
        contexts: params
            .contexts
            .iter()
            .map(|(_, name)| name.as_str())
            .collect(),
        tls: match &nbd.tls {
            TlsMode::None => None,
            TlsMode::First { .. } => Some("first"),
            TlsMode::StartTls { .. } => Some("starttls"),
        },
        suite,
        peer: peer_of(nbd),
        device: None,
        map,
    }
}

/// What is behind the export, when the server tells: only ours does.
fn device_facts(nbd: &NbdEndpoint) -> Option<Answer<ExportFacts>> {
    let facts = DataService::new(nbd.clone())
        .connect()
        .and_then(|mut session| session.facts());
    match facts {
        Ok(facts) => Some(facts),
        Err(error) if error.kind == ErrorKind::Unsupported => None,
        Err(error) => {
            tracing::warn!("the server does not tell what is behind the export: {error}");
            None
        }
    }
}

fn peer_of(nbd: &NbdEndpoint) -> String {
    let place = match &nbd.address {
        engine::Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        engine::Address::Tcp { host, port } => format!("{host}:{port}"),
        engine::Address::Unix(path) => path.display().to_string(),
    };
    match &nbd.tls {
        TlsMode::None => place,
        TlsMode::First { server_name, .. } | TlsMode::StartTls { server_name, .. } => {
            format!("{place}, certificate for {server_name}")
        }
    }
}

/// `base:allocation` of the whole export; all data when the server knows none.
fn read_map(client: &mut NbdClient) -> Result<Vec<MapEntry>, engine::EngineError> {
    let size_bytes = client.params().info.size_bytes;
    let mut map = MapBuilder::default();
    while map.end_bytes() < size_bytes {
        let offset = map.end_bytes();
        let left = size_bytes - offset;
        let extents = client.block_status(offset, left.min(STATUS_BYTES_MAX))?;
        if extents.is_empty() {
            map.push(left, false, false);
        }
        for extent in extents {
            let length = extent.len.min(size_bytes - map.end_bytes());
            map.push(length, extent.is_hole(), extent.is_zero());
        }
    }
    Ok(map.finish())
}

/// Lists the exports.
pub(super) fn list(nbd: &NbdEndpoint, output: OutputFormat) -> Result<(), Failure> {
    let exports = NbdClient::list(nbd).map_err(|error| Failure::engine(Side::Source, &error))?;
    let exports = exports
        .into_iter()
        .map(|(name, description)| ExportResult { name, description });
    let result = ListResult {
        schema: SCHEMA,
        command: "info",
        uri: &nbd.uri,
        exports: exports.collect(),
    };
    if output == OutputFormat::Json {
        return report::object(&result);
    }
    let mut text = String::new();
    for export in &result.exports {
        // Names come from the peer: quoted, so that none can look like two lines or like an escape.
        let _ = write!(text, "{:?}", export.name);
        if !export.description.is_empty() {
            let _ = write!(text, "  {:?}", export.description);
        }
        text.push('\n');
    }
    report::text(&text)
}

/// Texts come from the peer: quoted.
fn identity_text(identity: &DeviceFacts) -> String {
    let mut text = match identity.kind {
        StoreKind::Block => "block device",
        StoreKind::File => "file",
        StoreKind::Null => "nothing: reads are zeroes, writes are thrown away",
    }
    .to_owned();
    let texts = [("serial", &identity.serial), ("wwid", &identity.wwid)];
    for (name, value) in texts {
        if let Some(value) = value {
            let _ = write!(text, ", {name} {value:?}");
        }
    }
    let numbers = [("diskseq", identity.diskseq), ("inode", identity.inode)];
    for (name, value) in numbers {
        if let Some(value) = value {
            let _ = write!(text, ", {name} {value}");
        }
    }
    text
}

fn to_text(result: &ServerResult<'_>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("uri", result.uri);
    line("export", &format!("{:?}", result.export));
    if !result.description.is_empty() {
        line("about", &format!("{:?}", result.description));
    }
    line(
        "size",
        &format!(
            "{} ({} bytes)",
            format_size(result.size_bytes),
            result.size_bytes
        ),
    );
    line("flags", &result.flags.join(" "));
    line("mode", result.mode);
    let block = &result.block;
    line(
        "blocks",
        &format!(
            "least {}, preferred {}, at most {}{}",
            block.min_bytes,
            block.preferred_bytes,
            block.payload_max_bytes,
            if block.stated {
                ""
            } else {
                " (not stated by the server)"
            }
        ),
    );
    line("contexts", &result.contexts.join(" "));
    line(
        "tls",
        &format!(
            "{} {}",
            result.tls.unwrap_or("none"),
            result.suite.unwrap_or("")
        ),
    );
    line("peer", &result.peer);
    if let Some(device) = &result.device {
        let facts = &device.body;
        line("device", &identity_text(&facts.identity));
        line("logical", &format!("{} bytes", facts.logical_block_bytes));
        line("version", &format!("{:?}", facts.version));
        line("process", &format!("{:?}", device.boot_id));
        line("machine", &format!("{:?}", facts.machine_boot_id));
    }
    if let Some(map) = &result.map {
        text.push_str(&map::to_text(map));
    }
    text
}
