//! Children: started, timed, ended by their own handles.

use crate::machine_time::MachineTime;
use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// From its start to its end.
    pub seconds: f64,
    /// CPU seconds of the sender.
    pub sender_cpu: f64,
    /// CPU seconds of the server meanwhile.
    pub target_cpu: f64,
    /// CPU seconds of the whole machine meanwhile, the kernel's own threads among them.
    pub machine_busy: f64,
    /// CPU seconds that another machine took away.
    pub steal: f64,
}

/// A server in the background; ends with the value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    // Kept open: a server that writes more lines must not find a closed pipe.
    _stdout: Option<BufReader<std::process::ChildStdout>>,
}

impl Server {
    /// Starts a server and waits for a line that `ready` accepts.
    ///
    /// # Errors
    /// When it cannot be started, or ends before it says so.
    pub fn start_until(
        mut command: Command,
        ready: impl Fn(&str) -> bool,
    ) -> Result<(Self, String)> {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| name.clone())?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                let status = child.wait()?;
                bail!("{name} ended before it listened ({status})");
            }
            if ready(line.trim()) {
                return Ok((
                    Self {
                        child,
                        _stdout: Some(reader),
                    },
                    line.trim().to_owned(),
                ));
            }
        }
    }

    /// Takes over a child that is ready already.
    pub fn adopt(child: Child) -> Self {
        Self {
            child,
            _stdout: None,
        }
    }

    /// Looks whether it is still there.
    ///
    /// # Errors
    /// When it ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the server ended: {status}"),
        }
    }

    /// CPU seconds so far.
    ///
    /// # Errors
    /// When `/proc` does not tell.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).context(path)?;
        // Fields 14 and 15 (proc(5)), counted behind the name in parentheses; the kernel's unit is 1/100 s.
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }
}

impl Server {
    /// The most memory that it ever had, bytes.
    ///
    /// # Errors
    /// When `/proc` does not tell.
    pub fn peak_memory_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no VmHWM in {path}"))? << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may be gone already; waiting settles both cases.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _status = self.child.wait();
    }
}

fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs()).as_secs_f64()
            + Duration::from_micros(time.tv_usec().unsigned_abs()).as_secs_f64()
    };
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Runs a sender to its end. `near`: what runs all the time and works for the sender; `far`: for the target.
///
/// # Errors
/// When it cannot be started, or fails.
pub fn timed(command: &mut Command, near: &[Server], far: &[Server]) -> Result<Run> {
    let name = format!("{command:?}");
    let sum = |servers: &[Server]| servers.iter().map(Server::cpu_seconds).sum::<Result<f64>>();
    let (near_before, far_before) = (sum(near)?, sum(far)?);
    let (sender_before, machine) = (children_cpu()?, MachineTime::now()?);
    let begun = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?
        .wait_with_output()?;
    let seconds = begun.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!(
            "{name}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let after = MachineTime::now()?;
    Ok(Run {
        seconds,
        sender_cpu: children_cpu()? - sender_before + sum(near)? - near_before,
        target_cpu: sum(far)? - far_before,
        machine_busy: after.busy - machine.busy,
        steal: after.steal - machine.steal,
    })
}
