//! What other servers fell into, one short test each, named after the trap. `letters` are traps
//! that were found across tus servers; `tusd` and `rustus` are bugs that were seen in these.

mod letters;
mod rustus;
mod tusd;

use tests::pipeline::Ingest;

/// Processor time that a running ingest has used, in clock ticks (1/100 s).
fn processor_ticks(ingest: &Ingest) -> u64 {
    let path = format!("/proc/{}/stat", ingest.process.pid());
    let stat = std::fs::read_to_string(path).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // utime and stime; the name was the second field, and the state is the first after it.
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}
