//! What a killed lab leaves, found by its folder: machines by their recorded process, loop devices, mounts.

use crate::devices::{MOUNT, run};
use std::fs;
use std::io;
use std::path::Path;

/// Removes what a killed lab left in `folder`; answers what it did, a line each. Running it again does nothing.
///
/// # Errors
/// Where the folder cannot be looked at, or a device does not go.
pub fn clean(folder: &Path) -> io::Result<Vec<String>> {
    let folder = folder.canonicalize()?;
    let mut done = Vec::new();
    for entry in fs::read_dir(folder.join("machines"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "pid") {
            done.extend(end_machine(&path)?);
        }
    }
    let mount = folder.join(MOUNT);
    let list = run(
        "losetup",
        &[
            "--list",
            "--noheadings",
            "--raw",
            "--output",
            "NAME,BACK-FILE",
        ],
    )
    .unwrap_or_default();
    for line in list.lines() {
        // A lab that is gone leaves `(lost)` or `(deleted)` behind the path.
        if let Some((device, file)) = line.split_once(' ')
            && Path::new(file).starts_with(&mount)
        {
            run("losetup", &["-d", device])?;
            done.push(format!("detached {device}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let shown = mount.to_string_lossy().replace(' ', "\\040");
    let there = mounts
        .lines()
        .filter(|line| line.split(' ').nth(4) == Some(shown.as_str()));
    for _ in there {
        run("umount", &["-l", &mount.to_string_lossy()])?;
        done.push(format!("unmounted {}", mount.display()));
    }
    for link in fs::read_dir(folder.join("by-id"))
        .into_iter()
        .flatten()
        .flatten()
    {
        fs::remove_file(link.path())?;
        done.push(format!("removed {}", link.path().display()));
    }
    Ok(done)
}

/// Ends the process of a machine, if the number still belongs to it.
fn end_machine(path: &Path) -> io::Result<Option<String>> {
    let process = fs::read_to_string(path)?.trim().to_owned();
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let ours = path.to_string_lossy();
    let is_it = line
        .split(|byte| *byte == 0)
        .any(|word| word == ours.as_bytes());
    if is_it {
        run("kill", &["-KILL", &process])?;
    }
    fs::remove_file(path)?;
    Ok(is_it.then(|| format!("ended machine process {process}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    /// A process that waits for its input to end, with `word` among its arguments. It has said that it runs: until
    /// then the kernel may show no arguments.
    fn waiting(word: &str) -> Child {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo; read line", word])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let out = child.stdout.as_mut().expect("piped");
        out.read_exact(&mut [0]).expect("it runs");
        child
    }

    #[test]
    fn recorded_machines_are_ended_and_a_number_that_was_given_to_somebody_else_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let machines = folder
            .path()
            .canonicalize()
            .expect("there")
            .join("machines");
        fs::create_dir(&machines).expect("made");
        let (ours, theirs) = (machines.join("ours.pid"), machines.join("theirs.pid"));
        let mut machine = waiting(&ours.to_string_lossy());
        let mut stranger = waiting("something else");
        fs::write(&ours, machine.id().to_string()).expect("written");
        fs::write(&theirs, format!("{}\n", stranger.id())).expect("written");
        let done = clean(folder.path()).expect("cleaned");
        assert_eq!(done, [format!("ended machine process {}", machine.id())]);
        assert_eq!(machine.wait().expect("ended").signal(), Some(9));
        drop(stranger.stdin.take());
        assert!(
            stranger.wait().expect("ended").code().is_some(),
            "nobody killed it"
        );
        assert!(!ours.exists() && !theirs.exists());
    }
}
