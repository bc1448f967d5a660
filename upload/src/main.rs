//! The `upload` program.

fn main() -> std::process::ExitCode {
    upload::main()
}
