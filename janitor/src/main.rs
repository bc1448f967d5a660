//! The `janitor` program.

fn main() -> std::process::ExitCode {
    janitor::main()
}
