//! A server of ours, and the tool beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const TUNE: &str = env!("CARGO_BIN_EXE_migratekit-tune");

pub(crate) struct Site {
    dir: TempDir,
    program: PathBuf,
    server: Child,
    address: String,
}

impl Site {
    /// `None`, and a skip, where the program was not built.
    pub(crate) fn start(args: &[&str]) -> Option<Self> {
        let program = Path::new(TUNE).with_file_name("migratekit-dataplane");
        if !program.is_file() {
            println!(
                "SKIP: migratekit-dataplane is not built; cargo build -p migratekit-dataplane"
            );
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        let made = Command::new(&program)
            .args(["pki", "init"])
            .arg(&pki)
            .args(["--host", "127.0.0.1"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let shown = Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(pki.join("client-cert.pem"))
            .output()
            .unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        let fingerprint = text.trim().split_once('=').unwrap().1;
        let config = dir.path().join("serve.toml");
        std::fs::write(&config, format!("tuners = [\"{fingerprint}\"]\n")).unwrap();
        let mut server = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .arg("--tls-dir")
            .arg(&pki)
            .arg("--control-dir")
            .arg(dir.path().join("ctl"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(server.stdout.take().unwrap());
        let address = out
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let address = line.strip_prefix("listening ")?;
                Some(address.to_owned()).filter(|address| !address.contains(' '))
            })
            .unwrap();
        Some(Self {
            dir,
            program,
            server,
            address,
        })
    }

    pub(crate) fn uri(&self, export: &str) -> String {
        format!("mk://{}/{export}", self.address)
    }

    /// What the server has in force, by its control socket.
    pub(crate) fn device_depth(&self) -> u64 {
        let mut socket = UnixStream::connect(self.dir.path().join("ctl/transfers.sock")).unwrap();
        socket
            .write_all(b"GET /v1/tunables HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let all = body["tunables"].as_array().unwrap();
        let depth = all
            .iter()
            .find(|one| one["name"] == "device_depth")
            .unwrap();
        depth["value"].as_u64().unwrap()
    }

    /// Waits until the server has this in force: it sees the end of a connection a moment later.
    pub(crate) fn until_device_depth(&self, wanted: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.device_depth() != wanted {
            assert!(Instant::now() < deadline, "device_depth is not {wanted}");
            // There is no event for it.
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Runs the tool to its end.
    pub(crate) fn tune(&self, args: &[&str]) -> Output {
        let mut command = Command::new(TUNE);
        command.args(args).arg("--program").arg(&self.program);
        command.arg("--tls-dir").arg(self.dir.path().join("pki"));
        command.current_dir(self.dir.path()).output().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
