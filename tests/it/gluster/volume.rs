//! A replicated volume of three bricks on this machine, mounted twice.

use std::fs;
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tests::needs::run;
use tests::wait::wait_up_to;

const LIMIT: Duration = Duration::from_secs(120);

/// Where glusterd listens; its clients know no other.
const PORT: u16 = 24007;

const NAME: &str = "tuspool";

pub(crate) struct Volume {
    /// In the system's temporary directory: the paths of sockets must be short.
    dir: TempDir,
    glusterd: Child,
    host: String,
    mounts: Vec<PathBuf>,
}

/// Why there can be no volume on this machine.
pub(crate) fn missing() -> Option<String> {
    if let Err(error) = fs::metadata("/dev/fuse") {
        return Some(format!("/dev/fuse: {error}"));
    }
    let host = hostname();
    let Some(address) = address(&host) else {
        return Some(format!(
            "the host name {host} has no address, and bricks need one"
        ));
    };
    let taken = TcpStream::connect((address, PORT)).is_ok();
    taken.then(|| "a glusterd is running already".to_owned())
}

/// Bricks are named by host; "localhost" and numbers are refused.
fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn address(host: &str) -> Option<IpAddr> {
    let mut addresses = (host, PORT).to_socket_addrs().ok()?;
    addresses
        .find(std::net::SocketAddr::is_ipv4)
        .map(|address| address.ip())
}

impl Volume {
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("gl").tempdir().unwrap();
        let host = hostname();
        let address = address(&host).unwrap();
        for sub in ["b0", "b1", "b2", "m0", "m1", "work", "run"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let at = |name: &str| dir.path().join(name);
        fs::write(at("glusterd.vol"), volfile(dir.path(), address)).unwrap();
        let glusterd = Command::new("glusterd")
            .arg("--no-daemon")
            .arg(format!("--volfile={}", at("glusterd.vol").display()))
            .arg(format!("--log-file={}", at("glusterd.log").display()))
            .arg(format!("--pid-file={}", at("glusterd.pid").display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut volume = Self {
            dir,
            glusterd,
            host,
            mounts: Vec::new(),
        };
        wait_up_to(LIMIT, "glusterd to answer", || {
            volume.ask(&["volume", "list"])
        });
        volume.create(address);
        for n in 0..2 {
            volume.make_mount(n);
        }
        volume
    }

    fn create(&self, address: IpAddr) {
        let bricks: Vec<_> = (0..3)
            .map(|n| format!("{}:{}", self.host, self.brick(n)))
            .collect();
        let bricks: Vec<_> = bricks.iter().map(String::as_str).collect();
        let create = ["volume", "create", NAME, "replica", "3"];
        self.tell(&[&create, &bricks[..], &["force"]].concat());
        self.tell(&[
            "volume",
            "set",
            NAME,
            "auth.allow",
            &format!("127.0.0.1,{address}"),
        ]);
        // The case in which stale caches let a second consumer in: see the facts on claiming.
        self.tell(&["volume", "set", NAME, "performance.open-behind", "off"]);
        self.tell(&["volume", "start", NAME]);
    }

    fn make_mount(&mut self, n: usize) {
        let at = self.mount(n);
        let what = format!("{}:/{NAME}", self.host);
        let log = self.dir.path().join(format!("m{n}.log"));
        let log = format!("log-file={}", log.display());
        run(Command::new("mount")
            .args(["-t", "glusterfs", "-o", &log, &what])
            .arg(&at));
        self.mounts.push(at);
    }

    /// One of its two mount points.
    pub(crate) fn mount(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("m{n}"))
    }

    fn brick_dir(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("b{n}"))
    }

    fn brick(&self, n: usize) -> String {
        self.brick_dir(n).display().to_string()
    }

    /// SIGKILL, a new process, and everything that it missed healed.
    pub(crate) fn restart_brick(&self, n: usize) {
        let brick = self.brick(n).trim_start_matches('/').replace('/', "-");
        let pid_file = self.run_dir().join(format!("{}-{brick}.pid", self.host));
        let pid = fs::read_to_string(&pid_file).unwrap();
        kill(pid.trim());
        let process = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        wait_up_to(LIMIT, "the brick to be dead", || {
            matches!(tests::process::state(process), None | Some('Z')).then_some(())
        });
        // Again and again: until glusterd has noticed the death there is nothing to start.
        wait_up_to(LIMIT, "a new brick", || {
            self.tell(&["volume", "start", NAME, "force"]);
            fs::read_to_string(&pid_file).ok().filter(|new| *new != pid)
        });
        for mount in 0..2 {
            wait_up_to(LIMIT, "both clients to use the brick again", || {
                let name = format!("seen-{n}-{mount}");
                let (written, there) =
                    (self.mount(mount).join(&name), self.brick_dir(n).join(name));
                fs::write(&written, "").ok()?;
                let arrived = there.try_exists().ok()?;
                fs::remove_file(written).ok()?;
                arrived.then_some(())
            });
        }
        // Files that a brick knows another to have missed, apart from the index's own base file.
        wait_up_to(LIMIT, "the brick to have what it missed", || {
            let behind = (0..3).any(|other| {
                let index = self.brick_dir(other).join(".glusterfs/indices/xattrop");
                let entries = fs::read_dir(index)
                    .into_iter()
                    .flatten()
                    .filter_map(Result::ok);
                let mut names = entries.map(|entry| entry.file_name());
                names.any(|name| !name.to_string_lossy().starts_with("xattrop-"))
            });
            (!behind).then_some(())
        });
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run/vols").join(NAME)
    }

    fn gluster(&self, args: &[&str]) -> Command {
        let mut command = Command::new("gluster");
        let socket = self.dir.path().join("glusterd.sock");
        command
            .arg("--mode=script")
            .arg(format!("--glusterd-sock={}", socket.display()));
        command.args(args).stdin(Stdio::null());
        command
    }

    fn tell(&self, args: &[&str]) {
        run(&mut self.gluster(args));
    }

    fn ask(&self, args: &[&str]) -> Option<String> {
        let output = self.gluster(args).stderr(Stdio::null()).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for mount in &self.mounts {
            Command::new("umount")
                .arg("--lazy")
                .arg(mount)
                .status()
                .ok();
        }
        self.ask(&["volume", "stop", NAME, "force"]);
        // Should it not have listened: what it started says where it is.
        let pid_files = fs::read_dir(self.run_dir())
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        for pid in pid_files.filter_map(|file| fs::read_to_string(file.path()).ok()) {
            kill(pid.trim());
        }
        self.glusterd.kill().ok();
        self.glusterd.wait().ok();
    }
}

/// SIGKILL to a process of the volume. One that has ended is no mistake.
fn kill(pid: &str) {
    let pid = pid
        .parse()
        .ok()
        .filter(|pid| 1 < *pid)
        .map(nix::unistd::Pid::from_raw);
    if let Some(pid) = pid {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
    }
}

fn volfile(dir: &Path, address: IpAddr) -> String {
    let dir = dir.display();
    format!(
        "volume management\n\
         type mgmt/glusterd\n\
         option working-directory {dir}/work\n\
         option run-directory {dir}/run\n\
         option glusterd-sockfile {dir}/glusterd.sock\n\
         option transport-type socket\n\
         option transport.socket.read-fail-log off\n\
         option transport.socket.listen-port {PORT}\n\
         option transport.socket.bind-address {address}\n\
         option ping-timeout 0\n\
         option event-threads 1\n\
         option max-port 60999\n\
         end-volume\n"
    )
}
