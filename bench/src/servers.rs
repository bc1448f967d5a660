//! The servers that are measured: ours, the bare sink, and others.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum as _;

use crate::Args;
use crate::client::Client;
use crate::disk::Disk;
use crate::payload::Payload;
use crate::process::{Server, free_port, wait_listening};
use crate::sink::Sync;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours, with a durability.
    Ingest(&'static str),
    /// The bare sink, for large bodies.
    Sink(Sync),
    /// The bare sink, for small uploads; whether it syncs.
    Steps(bool),
    Nginx,
    Tusd,
    Rustus,
    /// tussi; whether it syncs (its default).
    Tussi(bool),
    TusNode,
}

impl Kind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ingest("none") => "ingest".to_owned(),
            Self::Ingest(durability) => format!("ingest {durability}"),
            Self::Sink(Sync::Never) | Self::Steps(false) => "sink".to_owned(),
            Self::Sink(Sync::Answer) => "sink fdatasync".to_owned(),
            Self::Sink(Sync::Paced) => "sink fdatasync, paced".to_owned(),
            Self::Steps(true) => "sink synced".to_owned(),
            Self::Nginx => "nginx PUT".to_owned(),
            Self::Tusd => "tusd 2.10.0".to_owned(),
            Self::Rustus => "rustus".to_owned(),
            Self::Tussi(false) => "tussi 3.1.0 unsynced".to_owned(),
            Self::Tussi(true) => "tussi 3.1.0".to_owned(),
            Self::TusNode => "@tus/server 2.4.5".to_owned(),
        }
    }

    /// Whether nothing of it is somebody else's.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ingest(_) | Self::Sink(_) | Self::Steps(_))
    }

    /// Whether this machine has it; says so if not.
    pub(crate) fn is_installed(self, args: &Args) -> bool {
        let program = match self {
            Self::Ingest(_) | Self::Sink(_) | Self::Steps(_) => return true,
            Self::Nginx => PathBuf::from("/usr/sbin/nginx"),
            Self::Tusd => args.peers.join("bin/tusd"),
            Self::Rustus => args.peers.join("bin/rustus"),
            Self::Tussi(_) => args.peers.join("venv/bin/uvicorn"),
            Self::TusNode => args.peers.join("node/node_modules/@tus/server"),
        };
        let found = std::fs::metadata(&program).is_ok();
        if !found {
            eprintln!(
                "left out: {} ({} is missing)",
                self.name(),
                program.display()
            );
        }
        found
    }

    /// Whether it takes an upload with all its bytes in the request that creates it.
    pub(crate) fn creates_with_upload(self) -> bool {
        self.speaks_tus() && !matches!(self, Self::Tussi(_))
    }

    fn speaks_tus(self) -> bool {
        !matches!(self, Self::Sink(_) | Self::Nginx)
    }
}

/// A running server with its storage.
pub(crate) struct Running {
    pub(crate) server: Server,
    pub(crate) port: u16,
    kind: Kind,
    root: PathBuf,
}

/// Path of one of our programs.
pub(crate) fn program(args: &Args, name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe()?
        .parent()
        .context("no directory")?
        .to_owned();
    Ok(args.bin.clone().unwrap_or(beside).join(name))
}

impl Running {
    pub(crate) fn start(kind: Kind, disk: &Disk, args: &Args) -> Result<Self> {
        let root = disk.path().join("root");
        std::fs::create_dir_all(&root)?;
        let port = free_port()?;
        let mut command = command(kind, &root, port, args)?;
        let server = Server::start(&mut command, &disk.log("server"))?;
        wait_listening(port).with_context(|| format!("{command:?}"))?;
        Ok(Self {
            server,
            port,
            kind,
            root,
        })
    }

    pub(crate) fn base(&self) -> &'static str {
        match self.kind {
            Kind::Rustus => "/files",
            _ => "/files/",
        }
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Client::connect(self.port)
    }

    /// Sends one upload of `length` bytes in pieces of at most `chunk`.
    pub(crate) fn send(
        &self,
        client: &mut Client,
        payload: &Payload,
        length: u64,
        chunk: u64,
        name: u64,
    ) -> Result<()> {
        if !self.kind.speaks_tus() {
            return client.put(&format!("/{name}"), payload, length);
        }
        let path = client.create(self.base(), length)?;
        let mut at = 0;
        while at < length {
            let piece = chunk.min(length - at);
            client.patch(&path, payload, at, piece)?;
            at += piece;
        }
        Ok(())
    }

    /// Verifies that the storage holds exactly `count` files of the payload's first bytes.
    pub(crate) fn verify(&self, payload: &Payload, count: u64, length: u64) -> Result<()> {
        let dir = match self.kind {
            Kind::Ingest(_) => self.root.join("spool/completed"),
            Kind::Tussi(_) | Kind::Steps(_) => self.root.join("completed"),
            Kind::Rustus | Kind::Tusd | Kind::TusNode | Kind::Nginx => self.root.join("data"),
            Kind::Sink(_) => self.root.clone(),
        };
        let mut found = 0;
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let sidecar = path.extension().is_some_and(|e| {
                ["meta", "info", "json", "lock"]
                    .iter()
                    .any(|known| e == *known)
            });
            if path.is_file() && !sidecar {
                payload.verify(&path, 0, length)?;
                found += 1;
            }
        }
        anyhow::ensure!(
            found == count,
            "{}: {found} of {count} files",
            dir.display()
        );
        Ok(())
    }
}

fn command(kind: Kind, root: &Path, port: u16, args: &Args) -> Result<Command> {
    let data = root.join("data");
    let port_text = port.to_string();
    if !matches!(kind, Kind::Tussi(_) | Kind::Sink(_) | Kind::Steps(_)) {
        std::fs::create_dir_all(&data)?;
    }
    Ok(match kind {
        Kind::Ingest(durability) => {
            let mut command = Command::new(program(args, "ingest")?);
            command.arg("--spool").arg(root.join("spool"));
            command.args([
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--durability",
                durability,
            ]);
            command.args(["--max-connections", "20000", "--log-level", "warn"]);
            command
        }
        Kind::Sink(sync) => sink(root, &port_text, sync)?,
        Kind::Steps(sync) => {
            let sync = if sync { Sync::Answer } else { Sync::Never };
            sink(root, &port_text, sync)?
        }
        Kind::Nginx => {
            let config = root.join("nginx.conf");
            std::fs::write(&config, nginx_config(root, port))?;
            let mut command = Command::new("/usr/sbin/nginx");
            command.args(["-g", "daemon off;", "-c"]).arg(config);
            command
        }
        Kind::Tusd => {
            let mut command = Command::new(args.peers.join("bin/tusd"));
            command
                .args(["-host", "127.0.0.1", "-port", &port_text, "-upload-dir"])
                .arg(&data);
            command.args(["-verbose=false", "-hooks-enabled-events", ""]);
            command
        }
        Kind::Rustus => {
            let mut command = Command::new(args.peers.join("bin/rustus"));
            command.args([
                "--host",
                "127.0.0.1",
                "--port",
                &port_text,
                "--url",
                "/files",
            ]);
            command.args(["--max-body-size", "17179869184", "--log-level", "ERROR"]);
            command
                .arg("--data-dir")
                .arg(&data)
                .arg("--info-dir")
                .arg(root.join("info"));
            command
        }
        Kind::Tussi(sync) => {
            let app = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
            let mut command =
                Command::new(std::path::absolute(args.peers.join("venv/bin/uvicorn"))?);
            command.args([
                "--app-dir",
                app,
                "--host",
                "127.0.0.1",
                "--port",
                &port_text,
            ]);
            command.args(["--no-access-log", "--log-level", "warning", "tussi_app:app"]);
            command
                .env("TUSSI_DIR", root)
                .env("TUSSI_FSYNC", if sync { "1" } else { "0" });
            command
        }
        Kind::TusNode => {
            let dir = args.peers.join("node");
            let mut command = Command::new("node");
            command
                .current_dir(dir)
                .arg("tus-node.mjs")
                .arg(&data)
                .arg(port_text);
            command
        }
    })
}

fn sink(root: &Path, port: &str, sync: Sync) -> Result<Command> {
    let sync = sync.to_possible_value().context("a hidden value")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sink", "--port", port, "--sync", sync.get_name(), "--dir"]);
    command.arg(root);
    Ok(command)
}

fn nginx_config(root: &Path, port: u16) -> String {
    let root = root.display();
    format!(
        "user root;\nworker_processes 2;\npid {root}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 20000; }}\n\
         http {{ access_log off; client_max_body_size 0; client_body_temp_path {root}/tmp;\n\
         client_body_buffer_size 1m; keepalive_requests 1000000;\n\
         server {{ listen 127.0.0.1:{port}; root {root}/data; location / {{ dav_methods PUT; }} }} }}\n"
    )
}
