//! `migratekit-lab`: the laboratory as a program.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Test doubles of the world around MigrateKit. For tests and the demonstration; never part of a release.
#[derive(Parser)]
#[command(version)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve a CloudStack of one host on loopback until interrupted.
    Cloudstack(CloudStackArgs),
    /// Remove what a killed lab left in its folder: machines, loop devices, mounts.
    Clean {
        /// The folder that the lab was started with.
        #[arg(long)]
        folder: PathBuf,
    },
}

#[derive(Args)]
struct CloudStackArgs {
    /// Folder for disks, devices and logs.
    #[arg(long)]
    folder: PathBuf,
    /// From which ids, delays and the content of disks follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What disks are made of [default: devices for root, files for anybody else].
    #[arg(long, value_enum)]
    backing: Option<lab::Backing>,
    /// The bus on which the appliance sees its disks.
    #[arg(long, value_enum, default_value_t)]
    bus: lab::Bus,
    /// Write ids of zones, offerings, networks and jobs as numbers, as old servers do.
    #[arg(long)]
    number_ids: bool,
    /// Time stands still until the control endpoint advances it.
    #[arg(long)]
    manual_clock: bool,
    /// Serve the API over TLS; the certificate is written to FOLDER/ca.pem.
    #[arg(long)]
    tls: bool,
    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the control endpoint listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
}

fn main() -> ExitCode {
    let done = match Line::parse().verb {
        Verb::Cloudstack(args) => cloudstack(args),
        Verb::Clean { folder } => clean(&folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            let _ = writeln!(std::io::stderr(), "migratekit-lab: {text}");
            ExitCode::FAILURE
        }
    }
}

fn clean(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    for line in lab::clean(folder)? {
        writeln!(std::io::stdout(), "{line}")?;
    }
    Ok(())
}

fn usual_backing() -> std::io::Result<lab::Backing> {
    if std::fs::metadata("/proc/self")?.uid() == 0 {
        return Ok(lab::Backing::Devices);
    }
    writeln!(
        std::io::stderr(),
        "migratekit-lab: not root: disks are plain files, and there is no power cut"
    )?;
    Ok(lab::Backing::Files)
}

fn cloudstack(args: CloudStackArgs) -> Result<(), Box<dyn std::error::Error>> {
    let options = lab::Options {
        seed: args.seed,
        backing: args.backing.map_or_else(usual_backing, Ok)?,
        bus: args.bus,
        identifiers: if args.number_ids {
            lab::Identifiers::Number
        } else {
            lab::Identifiers::Text
        },
        manual_clock: args.manual_clock,
        tls: args.tls,
        listen: args.listen,
        control: args.control,
        ..lab::Options::new(args.folder)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let lab = lab::CloudStack::start(&options)?;
    if let Some(pem) = lab.certificate() {
        std::fs::write(options.folder.join("ca.pem"), pem)?;
    }
    let mut facts = lab.control().facts();
    facts["url"] = lab.url().into();
    facts["control"] = format!("http://{}", lab.control_address()).into();
    // One line, so that whoever started the lab can wait for it and read it.
    writeln!(std::io::stdout(), "{facts}")?;
    runtime.block_on(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done,
            _ = end.recv() => Ok(()),
        }
    })?;
    Ok(())
}
