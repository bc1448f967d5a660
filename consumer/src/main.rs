//! consumer

fn main() {}
