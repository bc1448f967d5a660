//! The `ingest` program.

fn main() -> std::process::ExitCode {
    ingest::main()
}
