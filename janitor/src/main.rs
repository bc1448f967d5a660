//! janitor

fn main() {}
