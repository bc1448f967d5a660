//! `upload`: sends files to any tus 1.0.0 server, and resumes where it stopped.
//!
//! Depends on nothing else of this project, so that it is an independent voice on the protocol.
//!
//! From the outside in: `cli` and `config` say what is wanted, `walk` finds it, `run` goes through
//! it, `job` takes one file, `plan` decides where it begins, `transfer` and `pipe` create uploads,
//! `push` moves an offset forward, `client` sends single requests. What a failure means is decided in
//! `retry` alone.

mod answer;
mod body;
mod checksum;
mod cli;
mod client;
mod config;
mod deliver;
mod display;
mod exit;
mod job;
mod metadata;
mod meter;
mod pages;
mod pipe;
mod plan;
mod push;
mod remember;
mod report;
mod retry;
mod run;
mod session;
mod source;
mod terminate;
mod text;
mod transfer;
mod walk;

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::{Config, Task};
use crate::exit::Exit;

/// The whole program, with the flags and the environment of this process.
pub fn main() -> ExitCode {
    let config = match Config::read(env::args_os()) {
        Ok(config) => config,
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => return complain(&one_line(&error.to_string()), Exit::Usage),
    };
    let printed = match &config.task {
        Task::Completions(shell) => pages::completions(*shell),
        Task::Man => pages::man(),
        Task::Files(_) | Task::Random(_) | Task::Terminate(_) => return start(config),
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string(), Exit::Local),
    }
}

fn start(config: Config) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.to_string(), Exit::Local),
    };
    let exit = runtime.block_on(run::run(config));
    // A thread may still be waiting for standard input.
    runtime.shutdown_background();
    ExitCode::from(exit as u8)
}

fn complain(text: &str, exit: Exit) -> ExitCode {
    writeln!(io::stderr(), "upload: {text}").ok();
    ExitCode::from(exit as u8)
}

/// What clap says about a mistake, without the usage that follows it.
fn one_line(error: &str) -> String {
    let said = error
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let tips = error
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("tip:"));
    let words: Vec<&str> = said.chain(tips).collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
