//! The `consumer` program.

fn main() -> std::process::ExitCode {
    consumer::main()
}
