//! Machines that really boot: QEMU without acceleration, the console in a log. Where QEMU is not installed a machine
//! runs on paper only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) const QEMU: &str = "qemu-system-x86_64";

pub(crate) struct Machines {
    folder: PathBuf,
    running: BTreeMap<String, Child>,
    installed: bool,
}

impl Machines {
    pub(crate) fn new(folder: &Path) -> Machines {
        let version = Command::new(QEMU)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        Machines {
            folder: folder.join("machines"),
            running: BTreeMap::new(),
            installed: version.is_ok_and(|done| done.success()),
        }
    }

    /// Boots a machine from its disks, the root first.
    pub(crate) fn start(&mut self, machine: &str, disks: &[(String, PathBuf)]) -> io::Result<()> {
        if !self.installed {
            return Ok(());
        }
        self.stop(machine);
        fs::create_dir_all(&self.folder)?;
        let file = |end: &str| self.folder.join(format!("{machine}.{end}"));
        let mut command = Command::new(QEMU);
        command.args([
            "-accel",
            "tcg",
            "-machine",
            "pc",
            "-m",
            "256",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.arg("-pidfile").arg(file("pid"));
        command.arg("-chardev").arg(format!(
            "file,id=console,path={}",
            file("console").display()
        ));
        command.args(["-serial", "chardev:console"]);
        for (index, (id, path)) in disks.iter().enumerate() {
            let serial: String = id.chars().filter(|c| *c != '-').take(20).collect();
            command.arg("-drive").arg(format!(
                "if=none,id=d{index},format=raw,cache=writeback,file.locking=off,file={}",
                path.display()
            ));
            command.arg("-device").arg(format!(
                "virtio-blk-pci,drive=d{index},serial={serial},bootindex={index}"
            ));
        }
        let log = File::create(file("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.running.insert(machine.to_owned(), command.spawn()?);
        Ok(())
    }

    pub(crate) fn stop(&mut self, machine: &str) {
        if let Some(mut child) = self.running.remove(machine) {
            let _ = child.kill();
            let _ = child.wait();
            let _ = fs::remove_file(self.folder.join(format!("{machine}.pid")));
        }
    }

    pub(crate) fn stop_all(&mut self) {
        for machine in self.running.keys().cloned().collect::<Vec<_>>() {
            self.stop(&machine);
        }
    }
}
