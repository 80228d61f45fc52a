//! Our client against foreign servers.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::Bed;
use crate::matrix::{Cell, Good, Matrix, Place};
use crate::ours::Way;
use crate::peers::{self, Loop, binary, on_free_port, same, same_bytes, with_pid_file};
use crate::process::{Daemon, good};
use crate::server::{check_map, too_much_joined};

/// Data, hole and data, each of a multiple of 64 KiB: no request is shorter, so no payload may be copied.
const LEN: u64 = 3 * ((4 << 20) + (64 << 10));

/// Our side.
#[derive(Clone, Copy)]
struct Side<'a> {
    bed: &'a Bed,
    runtime: &'static str,
}

/// A foreign server that runs, and our name of its export.
struct Peer<'a> {
    side: Side<'a>,
    uri: String,
    daemons: Vec<Daemon>,
}

/// All cells of this side.
pub(crate) fn cells(matrix: &mut Matrix, bed: &Bed, runtime: &'static str) {
    let side = Side { bed, runtime };
    let source = bed.disk("client.source", LEN);
    for way in Way::ALL {
        for block in [1, 512, 4096] {
            nbdkit_file(matrix, side, way, block, &source);
        }
        nbdkit_memory(matrix, side, way, &source);
        nbdkit_pattern(matrix, side, way);
        nbdkit_sparse_random(matrix, side, way);
    }
    for way in Way::ALL {
        for format in ["raw", "qcow2"] {
            qemu_nbd_file(matrix, side, way, format, &source);
        }
        qemu_nbd_loop(matrix, side, way, &source);
    }
}

fn at<'a>(peer: &'a str, direction: &'a str, way: Way, block: u32) -> Place<'a> {
    Place {
        peer,
        direction,
        tls: way.name(),
        block,
    }
}

impl<'a> Peer<'a> {
    /// nbdkit on a Unix socket or on TCP with TLS; stunnel in front for TLS first.
    fn nbdkit(side: Side<'a>, way: Way, args: &[&str]) -> Result<Self, String> {
        let bed = side.bed;
        let pid_file = peers::pid_file(bed, "nbdkit");
        let start = |place: &[&str]| {
            let mut command = bed.command("nbdkit");
            command
                .args(["-f", "-P"])
                .arg(&pid_file)
                .args(place)
                .args(args);
            with_pid_file(bed, "nbdkit", &mut command)
        };
        let certificates = format!("--tls-certificates={}", bed.path("site").display());
        if way == Way::Starttls {
            let tls = [
                "--tls=require",
                &certificates,
                "--tls-verify-peer",
                "-i",
                "127.0.0.1",
                "-p",
            ];
            let (daemon, port) =
                on_free_port(|port| start(&[&tls[..], &[&port.to_string()]].concat()))?;
            return Ok(Self::new(
                side,
                format!("nbds://127.0.0.1:{port}/"),
                vec![daemon],
            ));
        }
        let socket = bed.path("nbdkit.sock");
        let _ = std::fs::remove_file(&socket);
        let path = socket.display().to_string();
        let server = start(&["-U", &path])?;
        if way == Way::Plain {
            return Ok(Self::new(
                side,
                format!("nbd+unix:///?socket={path}"),
                vec![server],
            ));
        }
        Self::behind_stunnel(side, "", &path, server)
    }

    /// TLS first: an unmodified stunnel in front of a server on a Unix socket.
    fn behind_stunnel(
        side: Side<'a>,
        export: &str,
        socket: &str,
        server: Daemon,
    ) -> Result<Self, String> {
        let (front, port) = on_free_port(|port| {
            peers::stunnel(
                side.bed,
                "front",
                false,
                &format!("127.0.0.1:{port}"),
                socket,
            )
        })?;
        let uri = format!("mk://127.0.0.1:{port}/{export}");
        Ok(Self::new(side, uri, vec![front, server]))
    }

    /// qemu-nbd on a Unix socket, or on TCP with TLS; stunnel in front for TLS first.
    fn qemu_nbd(side: Side<'a>, way: Way, args: &[&str]) -> Result<Self, String> {
        let bed = side.bed;
        let start = |place: &[&str]| {
            let mut command = bed.command("qemu-nbd");
            command.args(["--persistent", "--shared=8", "-x", "disk", "--pid-file"]);
            command
                .arg(peers::pid_file(bed, "qemu-nbd"))
                .args(place)
                .args(args);
            with_pid_file(bed, "qemu-nbd", &mut command)
        };
        if way != Way::Starttls {
            let socket = bed.path("qemu-nbd.sock");
            let _ = std::fs::remove_file(&socket);
            let path = socket.display().to_string();
            let server = start(&["-k", &path])?;
            if way == Way::Stunnel {
                return Self::behind_stunnel(side, "disk", &path, server);
            }
            let uri = format!("nbd+unix:///disk?socket={path}");
            return Ok(Self::new(side, uri, vec![server]));
        }
        let dir = bed.path("site");
        let object = format!(
            "tls-creds-x509,endpoint=server,dir={},id=t,verify-peer=on",
            dir.display()
        );
        let tls = [
            "--object",
            &object,
            "--tls-creds",
            "t",
            "-b",
            "127.0.0.1",
            "-p",
        ];
        let (daemon, port) =
            on_free_port(|port| start(&[&tls[..], &[&port.to_string()]].concat()))?;
        Ok(Self::new(
            side,
            format!("nbds://127.0.0.1:{port}/disk"),
            vec![daemon],
        ))
    }

    fn new(side: Side<'a>, uri: String, daemons: Vec<Daemon>) -> Self {
        Self { side, uri, daemons }
    }

    fn ours(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = self.side.bed.command(binary());
        command.args(args).args(["--output", "json"]);
        if !self.uri.starts_with("nbd+unix") {
            command.args(["--tls-dir", "site"]);
        }
        let run = good(&mut command)?;
        serde_json::from_str(&run.stdout).map_err(|error| format!("{error}: {run:?}"))
    }

    /// Our copy there. The result must be durable, and made without a copy of payload.
    fn copy_to(&self, source: &Path) -> Result<String, String> {
        self.copy(&source.display().to_string(), &self.uri, true)
    }

    /// Our copy from there, into a new file.
    fn copy_from(&self) -> Result<(PathBuf, String), String> {
        let out = self.side.bed.path("out");
        let _ = std::fs::remove_file(&out);
        let counters = self.copy(&self.uri, &out.display().to_string(), false)?;
        Ok((out, counters))
    }

    fn copy(&self, source: &str, target: &str, is_to: bool) -> Result<String, String> {
        let runtime = self.side.runtime;
        let quiet = ["--progress", "none", "--runtime", runtime];
        let result = self.ours(&[&["copy", source, target], &quiet[..]].concat())?;
        if result["durable"] != true {
            return Err(format!("not durable: {result}"));
        }
        let number = |key: &str| result[key].as_u64().unwrap_or(u64::MAX);
        let copied = number("plaintext_copied_bytes");
        let joined = number("ciphertext_joined_bytes");
        let shown = format!("plaintext copied {copied} B, joined {joined} B");
        // What arrives through stunnel was cut into records by it, so such a copy is only counted.
        let is_cut_anew = !is_to && self.uri.starts_with("mk://");
        if !is_cut_anew && (copied != 0 || too_much_joined(joined, number("data_bytes"))) {
            return Err(shown);
        }
        Ok(shown)
    }

    /// Whether the peer found fault with any of our connections so far.
    fn is_content(&self) -> Cell {
        let said: String = self.daemons.iter().map(Daemon::output).collect();
        let complaint = said.lines().find(|line| line.contains("error"));
        match complaint {
            None => Ok(Good::Reason("no error in its log".into())),
            Some(line) => Err(format!("it says {line}")),
        }
    }

    /// Size, blocks, TLS and map, as our `info` sees them.
    fn info(&self, way: Way, block: u32, disk: &Path) -> Cell {
        let info = self.ours(&["info", &self.uri, "--map"])?;
        let len = std::fs::metadata(disk).unwrap().len();
        let tls: Value = match way {
            Way::Plain => Value::Null,
            Way::Starttls => "starttls".into(),
            Way::Stunnel => "first".into(),
        };
        let found = (
            &info["size_bytes"],
            &info["block"]["min_bytes"],
            &info["tls"],
        );
        let expected: (Value, Value, Value) = (len.into(), block.into(), tls);
        if found != (&expected.0, &expected.1, &expected.2) {
            return Err(format!("{found:?} instead of {expected:?}"));
        }
        let extents = check_map(
            &info["map"],
            "offset_bytes",
            "length_bytes",
            disk,
            |extent| extent["zero"] == true,
        )?;
        Ok(Good::Same(format!(
            "size, blocks, map of {extents} extents"
        )))
    }
}

fn nbdkit_file(matrix: &mut Matrix, side: Side<'_>, way: Way, block: u32, source: &Path) {
    let bed = side.bed;
    let (name, disk) = ("nbdkit file", bed.path("nbdkit.disk"));
    peers::fill(&disk, LEN);
    let path = disk.display().to_string();
    let minimum = format!("blocksize-minimum={block}");
    let mut args = vec!["--filter=blocksize-policy", "file", &path, &minimum];
    args.extend(["blocksize-error-policy=error", "blocksize-maximum=32M"]);
    args.extend(["blocksize-preferred=64K"]);
    let peer = Peer::nbdkit(side, way, &args);
    matrix.cell(at(name, "our copy to", way, block), || {
        let counters = peer.as_ref()?.copy_to(source)?;
        same(source, &disk).map(|()| Good::Same(counters))
    });
    matrix.cell(at(name, "our copy from", way, block), || {
        let (out, counters) = peer.as_ref()?.copy_from()?;
        same(source, &out).map(|()| Good::Same(counters))
    });
    matrix.cell(at(name, "our info", way, block), || {
        peer.as_ref()?.info(way, block, &disk)
    });
    matrix.cell(at(name, "its log", way, block), || {
        peer.as_ref()?.is_content()
    });
}

fn nbdkit_memory(matrix: &mut Matrix, side: Side<'_>, way: Way, source: &Path) {
    let size = LEN.to_string();
    let peer = Peer::nbdkit(side, way, &["memory", &size]);
    matrix.cell(at("nbdkit memory", "our copy to, from", way, 1), || {
        let peer = peer.as_ref()?;
        let to = peer.copy_to(source)?;
        let (out, from) = peer.copy_from()?;
        same(source, &out).map(|()| Good::Same(format!("{to}, {from}")))
    });
}

/// Each eight bytes hold their own offset, big end first.
fn nbdkit_pattern(matrix: &mut Matrix, side: Side<'_>, way: Way) {
    let size = LEN.to_string();
    let peer = Peer::nbdkit(side, way, &["pattern", &size]);
    matrix.cell(at("nbdkit pattern", "our copy from", way, 1), || {
        let (out, counters) = peer.as_ref()?.copy_from()?;
        let expected: Vec<u8> = (0..LEN / 8)
            .flat_map(|word| (word * 8).to_be_bytes())
            .collect();
        same_bytes(&expected, &out).map(|()| Good::Same(counters))
    });
}

/// The content is nbdkit's secret; nbdcopy is asked about it on a plain socket with the same seed.
fn nbdkit_sparse_random(matrix: &mut Matrix, side: Side<'_>, way: Way) {
    let bed = side.bed;
    let args = ["sparse-random", "24M", "seed=11", "percent=40"];
    let expected = bed.path("sparse");
    let fetched = if expected.exists() {
        Ok(())
    } else {
        Peer::nbdkit(side, Way::Plain, &args).and_then(|plain| {
            let mut command = bed.command("nbdcopy");
            good(command.arg(&plain.uri).arg(&expected)).map(|_| ())
        })
    };
    let peer = Peer::nbdkit(side, way, &args);
    matrix.cell(at("nbdkit sparse-random", "our copy from", way, 1), || {
        fetched?;
        let (out, counters) = peer.as_ref()?.copy_from()?;
        same(&expected, &out).map(|()| Good::Same(counters))
    });
    matrix.cell(at("nbdkit sparse-random", "our info", way, 1), || {
        peer.as_ref()?.info(way, 1, &expected)
    });
}

fn qemu_nbd_file(matrix: &mut Matrix, side: Side<'_>, way: Way, format: &str, source: &Path) {
    let bed = side.bed;
    let name = format!("qemu-nbd {format}");
    let disk = bed.path(&format!("qemu.{format}"));
    let _ = std::fs::remove_file(&disk);
    let path = disk.display().to_string();
    let size = LEN.to_string();
    let made = good(
        bed.command("qemu-img")
            .args(["create", "-q", "-f", format, &path, &size]),
    );
    let peer = made.and_then(|_| Peer::qemu_nbd(side, way, &["-f", format, &path]));
    matrix.cell(at(&name, "our copy from", way, 1), || {
        let (out, _) = peer.as_ref()?.copy_from()?;
        let zeroes = vec![0; usize::try_from(LEN).unwrap()];
        same_bytes(&zeroes, &out).map(|()| Good::Same("empty".into()))
    });
    matrix.cell(at(&name, "our copy to, from", way, 1), || {
        let peer = peer.as_ref()?;
        let to = peer.copy_to(source)?;
        let (out, from) = peer.copy_from()?;
        same(source, &out).map(|()| Good::Same(format!("{to}, {from}")))
    });
    matrix.cell(at(&name, "our info", way, 1), || {
        peer.as_ref()?.info(way, 1, source)
    });
    // Killed, not closed: what the flush has promised must be in the image.
    let ran = peer.map(drop);
    matrix.cell(at(&name, "image after its end", way, 1), || {
        ran?;
        let out = bed.path("out");
        let mut command = bed.command("qemu-img");
        command.args(["convert", "-f", format, "-O", "raw", &path]);
        good(command.arg(&out))?;
        same(source, &out).map(|()| Good::Same(String::new()))
    });
}

/// A device of 4096-byte sectors, past the page cache.
fn qemu_nbd_loop(matrix: &mut Matrix, side: Side<'_>, way: Way, source: &Path) {
    let bed = side.bed;
    let disk = bed.path("qemu.loop");
    peers::fill(&disk, LEN);
    let Some(device) = Loop::make(&disk, 4096) else {
        return;
    };
    let args = ["-f", "raw", "--cache=none", &device.device];
    let peer = Peer::qemu_nbd(side, way, &args);
    matrix.cell(at("qemu-nbd loop", "our copy to", way, 4096), || {
        let counters = peer.as_ref()?.copy_to(source)?;
        same(source, &disk).map(|()| Good::Same(counters))
    });
    matrix.cell(at("qemu-nbd loop", "our copy from", way, 4096), || {
        let (out, counters) = peer.as_ref()?.copy_from()?;
        same(source, &out).map(|()| Good::Same(counters))
    });
    matrix.cell(at("qemu-nbd loop", "our info", way, 4096), || {
        // QEMU takes care of the sectors itself and states blocks of one byte.
        peer.as_ref()?.info(way, 1, source)
    });
}
